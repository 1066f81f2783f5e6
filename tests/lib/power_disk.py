"""A disk that loses what was not synced: an ext4 image on a loop device, mounted where only this process and its children see it.

    private_mounts()                      # of netns.py, once
    disk = PowerDisk(image, directory)    # made and mounted
    disk.cut(); disk.mount()

`cut` stops the file system in the middle of everything, by the ioctl with which xfstests' `godown` does it (EXT4_IOC_SHUTDOWN
without flushing the log): what is in the page cache and was not written by fsync or by the kernel is gone, as after a power cut; the
mount afterwards replays ext4's own journal. Writing back in the background is put off by commit=3600 and, for data, by delayed
allocation. Needs root; a mount and its loop device end with the last process that sees them.
"""
import fcntl
import os
import struct
import subprocess

EXT4_IOC_SHUTDOWN, NO_LOG_FLUSH = 0x8004587D, 2


class PowerDisk:
    def __init__(self, image, directory, megabytes=96):
        self.image, self.directory = image, directory
        with open(image, "wb") as file:
            file.truncate(megabytes << 20)
        _run("mkfs.ext4", "-q", "-F", image)
        os.makedirs(directory, exist_ok=True)
        self.mount()

    def mount(self):
        _run("mount", "-o", "loop,commit=3600", self.image, self.directory)

    def cut(self):
        """From here on every write fails, also of a process that still has files open."""
        fd = os.open(self.directory, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, EXT4_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(fd)

    def unmount(self):
        """Nobody may have files open."""
        _run("umount", self.directory)


def _run(*command):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
