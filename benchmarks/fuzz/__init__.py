"""Hostile files by the hundred, given to the project as the app and the command line give them; see ``__main__``."""
