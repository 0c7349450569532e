"""All systems under test, by name: ours, the bare application as the yardstick of its server, and the peers."""

from .ours import BareDaphne, BareUvicorn, OursCluster, OursDaphne, OursRegistry, OursUntuned, OursUvicorn, OursView
from .peers import Centrifugo, Kuiperbelt, Nchan, Pushpin
from .system import System

SYSTEMS: dict[str, System] = {
    system.name: system
    for system in (
        OursUvicorn(),
        OursView(),
        OursUntuned(),
        OursRegistry(),
        OursCluster(),
        OursDaphne(),
        BareUvicorn(),
        BareDaphne(),
        Kuiperbelt(),
        Nchan(),
        Centrifugo(),
        Pushpin(),
    )
}
