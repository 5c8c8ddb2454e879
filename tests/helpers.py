from pathlib import Path

ROOT = Path(__file__).parents[1]
GOLDENS = Path(__file__).parent / "goldens"
