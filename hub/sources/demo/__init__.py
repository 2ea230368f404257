"""The built-in demo model's files, laid out as Meta lays out a download; made by tools/demo."""
