"""Run the commands: `python -m loupe show steer.loupe`."""

from loupe.cli.app import app

if __name__ == "__main__":
    app(prog_name="python -m loupe")
