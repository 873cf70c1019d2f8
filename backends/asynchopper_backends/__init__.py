"""The backends that come with asynchopper. Found by URL scheme, through the same entry points as anyone else's."""
