"""The second decoder and what it stands on are found beside these tests, as they are when it runs alone."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
