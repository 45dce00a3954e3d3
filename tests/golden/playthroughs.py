"""How a golden playthrough is printed, line by line."""

from collections.abc import Sequence

from sparring.types import Episode

FIELDS = ("on_topic", "reply_harm", "refused", "helpful", "score")


def lines(episodes: Sequence[Episode]) -> str:
    told: list[str] = []
    for episode in episodes:
        seed = episode.state.seed
        told.append(f"seed {seed.id} ({'harmful' if seed.harmful else 'benign'})")
        for move in episode.state.moves:
            who = f"  {move.player} #{move.sibling}"
            told += [f"{who} sees {m.role}: {m.content}" for m in move.observation]
            told.append(f"{who} says {move.completion.text}")
        for ply, verdict in episode.state.rulings:
            fields = {k: getattr(verdict, k) for k in FIELDS}
            seen = ", ".join(f"{k} {x}" for k, x in fields.items() if x is not None)
            told.append(f"  judge after {ply}: {seen}")
        paid = ", ".join(f"{p} {value:+.1f}" for p, value in sorted(episode.returns.items()))
        told.append(f"  pays {paid}")
    return "\n".join(told) + "\n"
