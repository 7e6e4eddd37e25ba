"""Files of pictures: what their bytes say before they are decoded, their pixels, colour profiles and metadata."""
