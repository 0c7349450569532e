"""The peers: other push servers, set up as their documentation says, with the same work to do.

None is part of the project: each runs if its program is installed here (`make bench-peers`) and is named as absent
otherwise.
"""

from .centrifugo import Centrifugo
from .kuiperbelt import Kuiperbelt
from .nchan import Nchan
from .pushpin import Pushpin

__all__ = ["Centrifugo", "Kuiperbelt", "Nchan", "Pushpin"]
