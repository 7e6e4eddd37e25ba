"""Pretrained, frozen networks of faces, and what is measured with them: where faces lie, and whose they are."""
