"""Which scorer judges answers from now on."""

from cl.db.tables import Scorer
from cl.rules import quality


def newest_scorer() -> str:
    """The name of the scorer published last; the rules' until there is one."""
    row = Scorer.select(Scorer.name).order_by(Scorer.id.desc()).first()
    return str(row.name) if row else quality.SCORER
