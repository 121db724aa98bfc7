"""What Open MPI's mpirun starts its daemons on other machines through: `python -I -S shield.py prted …`

At a signal to stop, a daemon would kill its ranks at once. So the daemon has these signals blocked, as mpirun has them
on the first machine, and unblocks them in the ranks. It ends when the connection to mpirun does.
"""

from __future__ import annotations

import os
import signal
import sys

# python -I leaves out the folder that holds the package. It comes last, for it may hold other packages too.
sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from mmaml.launcher.protocol import STOPS

if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    os.execvp(sys.argv[1], sys.argv[1:])
