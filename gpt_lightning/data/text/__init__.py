"""Text as bytes: which files a corpus has, how they are downloaded, and how their formats are read."""
