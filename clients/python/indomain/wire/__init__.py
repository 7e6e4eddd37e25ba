"""Values of the contract as they travel: messages as JSON, pictures, codes. The gateway uses the JSON too."""
