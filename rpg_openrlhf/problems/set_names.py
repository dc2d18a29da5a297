"""Names of data sets, as a comma-separated flag gives them."""

import os


def split_names(text: str) -> list[tuple[str, str | None]]:
    """(name, folder) of each set of a comma-separated list; `name@folder` names a folder of a hub data set.

    A path that exists is taken whole, with its commas and @.
    """
    exists, parts, names = os.path.exists, text.split(","), []  # Path.exists raises if a name is too long
    while parts:
        length = next((n for n in range(len(parts), 0, -1) if exists(",".join(parts[:n]).strip())), 1)
        name, folder = ",".join(parts[:length]).strip(), ""
        parts = parts[length:]
        if not exists(name):
            name, _, folder = (word.strip() for word in name.partition("@"))
        names.append((name, folder or None))
    return names
