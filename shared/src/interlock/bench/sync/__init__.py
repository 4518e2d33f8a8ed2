"""Moving artifacts beside rsync and SFTP, on this machine: ``interlock bench sync``."""
