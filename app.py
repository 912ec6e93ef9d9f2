"""Start the app: ``python app.py``."""

if __name__ == "__main__":  # the drawing process imports this file again under another name: it must do nothing there
    import sys

    from ui.serve import serve

    sys.exit(serve())
