"""Text as bytes: which files a corpus has, what format they are in, and how they are downloaded and read."""
