"""How a golden playthrough is printed, line by line."""

from collections.abc import Sequence

from sparring.types import Episode

FIELDS = ("on_topic", "reply_harm", "refused", "helpful", "score")


def lines(episodes: Sequence[Episode]) -> str:
    text: list[str] = []
    for episode in episodes:
        seed = episode.state.seed
        text.append(f"seed {seed.id} ({'harmful' if seed.harmful else 'benign'})")
        for move in episode.state.moves:
            who = f"  {move.player} #{move.sibling}"
            text += [f"{who} sees {m.role}: {m.content}" for m in move.observation]
            text.append(f"{who} says {move.completion.text}")
        for ply, verdict in episode.state.rulings:
            fields = {k: getattr(verdict, k) for k in FIELDS}
            filled = ", ".join(f"{k} {x}" for k, x in fields.items() if x is not None)
            text.append(f"  judge after {ply}: {filled}")
        paid = ", ".join(f"{p} {value:+.1f}" for p, value in sorted(episode.returns.items()))
        text.append(f"  pays {paid}")
    return "\n".join(text) + "\n"
