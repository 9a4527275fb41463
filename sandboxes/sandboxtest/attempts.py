"""What a plain program, as the kernel's user, tries to get out of its sandbox.

Each attempt raises when it is refused, and returns what it got otherwise. One
line of JSON for each: [name, refused, what was said]. A namespace or a table of
mounts of its own is no way out by itself: gVisor gives both in a kernel of its
own. What is behind it must stay shut.
"""

import ctypes, errno, fcntl, json, os, platform, resource, signal, socket, stat, struct, subprocess, sys, tempfile

attempts = {}


def attempt(name):
    def add(f):
        assert name not in attempts, name
        attempts[name] = f
        return f

    return add


def every(name, values, f):
    "One attempt for each value. The name has a place for it."
    for value in values:
        attempt(name.format(value))(lambda value=value: f(value))


class Refused(Exception):
    pass


NONE = -1  # a system call that the machine does not have
numbers = dict(zip(
    "mount umount2 pivot_root ptrace process_vm_readv pidfd_open pidfd_getfd bpf io_uring_setup keyctl add_key request_key unshare setns".split()
    + "init_module finit_module delete_module kexec_load kexec_file_load reboot open_by_handle_at userfaultfd perf_event_open swapon".split()
    + "iopl ioperm acct clock_settime sethostname syslog fanotify_init open_tree fsopen kcmp move_pages".split(),
    zip(
        [165, 166, 155, 101, 310, 434, 438, 321, 425, 250, 248, 249, 272, 308]
        + [175, 313, 176, 246, 320, 169, 304, 323, 298, 167]
        + [172, 173, 163, 227, 170, 103, 300, 428, 430, 312, 279],
        [40, 39, 41, 117, 270, 434, 438, 280, 425, 219, 217, 218, 97, 268]
        + [105, 273, 106, 104, 294, 142, 265, 282, 241, 224]
        + [NONE, NONE, 89, 112, 161, 116, 262, 428, 430, 272, 239],
    ),
))
libc = ctypes.CDLL(None, use_errno=True)
column = {"x86_64": 0, "aarch64": 1}[platform.machine()]


def call(name, *args):
    number = numbers[name][column]
    if number == NONE:
        raise Refused("not on this machine")
    r = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in args))
    if r < 0:
        e = ctypes.get_errno()
        raise OSError(e, os.strerror(e))
    return r


def in_child(f):
    "In a process of its own, which takes what it has changed of itself with it."
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, b"+" + repr(f()).encode()[:200])
        except BaseException as e:
            os.write(write, b"-" + repr(e).encode()[:200])
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as told:
        said = told.read()
    os.waitpid(pid, 0)
    if said[:1] == b"+":
        return said[1:].decode()
    raise Refused(said[1:].decode() or "killed")


AGENT = 1  # the sandbox's first process
CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUSER, CLONE_NEWNET = 0x20000, 0x2000000, 0x10000000, 0x40000000

# Who the code is.


def status(name):
    with open("/proc/self/status") as f:
        for line in f:
            if line.startswith(name + ":"):
                return line.split(":")[1].strip()
    raise Refused("not told")


@attempt("be root")
def _():
    if 0 not in os.getresuid() + os.getresgid() and 0 not in os.getgroups():
        raise Refused(os.getresuid())


@attempt("have capabilities")
def _():
    held = {name: status(name) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb") if int(status(name), 16)}
    if not held:
        raise Refused("none")
    return held


@attempt("gain privileges by executing")
def _():
    if status("NoNewPrivs") == "1":
        raise Refused("no_new_privs")


@attempt("become root by setuid, setgid, setgroups")
def _():
    for f in (lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.setgroups([0])):
        try:
            return f()
        except OSError as e:
            said = e
    raise said


@attempt("an own setuid program")
def _():
    own = tempfile.mkdtemp(dir=os.path.expanduser("~")) + "/id"
    subprocess.run(f"cp /usr/bin/id {own} && chmod 6755 {own}", shell=True, check=True)
    uid = subprocess.run([own, "-u"], capture_output=True, text=True, check=True).stdout.strip()
    if uid != str(os.getuid()):
        return uid
    raise Refused(f"it runs as {uid}")


@attempt("setuid programs of the image")
def _():
    tried = 0
    for top in ("/usr/bin", "/usr/sbin", "/usr/lib"):
        for at, _, names in os.walk(top):
            for path in (os.path.join(at, name) for name in names):
                info = os.lstat(path)
                if info.st_mode & stat.S_ISUID and stat.S_ISREG(info.st_mode):
                    tried += 1
                    with subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as p:
                        uids = open(f"/proc/{p.pid}/status").read().split("Uid:")[1].splitlines()[0].split()
                        p.kill()
                    if "0" in uids:
                        return path
    raise Refused(f"{tried} of them")


@attempt("capabilities of a file")
def _():
    path = tempfile.mkdtemp() + "/f"
    open(path, "w").close()
    os.setxattr(path, "security.capability", struct.pack("<IIIII", 0x02000001, 0xFFFFFFFF, 0, 0xFFFFFFFF, 0))


# Mounts.

every("mount {}", ["tmpfs", "proc", "sysfs", "cgroup", "cgroup2", "devtmpfs", "overlay", "bpf", "debugfs", "securityfs"],
      lambda kind: call("mount", b"none", tempfile.mkdtemp().encode(), kind.encode(), 0, None))


@attempt("unmount what is masked")
def _():
    for path in ("/proc/kcore", "/proc/keys", "/proc/sys", "/sys/firmware", "/dev/shm"):
        try:
            return call("umount2", path.encode(), 2)
        except OSError as e:
            said = e
    raise said


@attempt("mount by descriptor")
def _():
    try:
        return call("fsopen", b"tmpfs", 0)
    except OSError:
        return call("open_tree", -100, b"/", 1)


@attempt("pivot_root, chroot")
def _():
    try:
        return call("pivot_root", b".", b".")
    except OSError:
        return os.chroot("/tmp")


@attempt("make the read-only root writable")
def _():
    try:
        return call("mount", b"none", b"/proc/sys", None, 32 | 4096, None)  # MS_REMOUNT | MS_BIND
    except OSError:
        with open("/usr/bin/python3", "r+b"):
            return "opened"


def behind_user_namespace(f):
    def inside():
        call("unshare", CLONE_NEWUSER | CLONE_NEWNS)
        uid, gid = os.getuid(), os.getgid()
        return f()

    return lambda: in_child(inside)


def write(path, text):
    with open(path, "w") as f:
        f.write(text)
    return path


@behind_user_namespace
def release_agent():
    at = tempfile.mkdtemp()
    call("mount", b"none", at.encode(), b"cgroup", 0, b"memory")
    return write(at + "/release_agent", "/bin/sh")


attempt("release_agent of a control group, from a user namespace")(release_agent)
attempt("core_pattern, from a user namespace")(behind_user_namespace(lambda: write("/proc/sys/kernel/core_pattern", "|/bin/sh")))
attempt("a disk, from a user namespace")(behind_user_namespace(lambda: call("mount", b"/dev/vda", tempfile.mkdtemp().encode(), b"ext4", 0, None)))


def make_node(kind, major, minor):
    path = tempfile.mkdtemp() + "/node"
    os.mknod(path, 0o600 | kind, os.makedev(major, minor))
    with open(path, "rb") as f:
        return f.read(1)


attempt("a device, from a user namespace")(behind_user_namespace(lambda: make_node(stat.S_IFBLK, 254, 0)))


@attempt("a setuid program copied up by an overlay in a user namespace")
def _():
    d = tempfile.mkdtemp(dir=os.path.expanduser("~"))
    for name in ("lower", "upper", "work", "at"):
        os.mkdir(f"{d}/{name}")

    def inside():
        call("unshare", CLONE_NEWUSER | CLONE_NEWNS)
        call("mount", b"none", f"{d}/at".encode(), b"overlay", 0, f"lowerdir=/usr/bin,upperdir={d}/upper,workdir={d}/work".encode())
        os.chmod(f"{d}/at/id", 0o6755)

    in_child(inside)
    if (out := subprocess.run([f"{d}/upper/id", "-u"], capture_output=True, text=True).stdout.strip()) != str(os.getuid()):
        return out
    raise Refused(f"it runs as {out}")


@attempt("network administration, from a user namespace")
def _():
    def inside():
        call("unshare", CLONE_NEWUSER)
        return set_address()

    return in_child(inside)


# The kernel.

every("write {}", [
    "/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/kernel/hotplug", "/proc/sys/vm/panic_on_oom",
    "/proc/sys/net/ipv4/ip_forward", "/proc/sys/fs/binfmt_misc/register", "/sys/kernel/uevent_helper", "/sys/kernel/mm/ksm/run", "/sys/power/state",
    "/sys/fs/cgroup/release_agent", "/sys/fs/cgroup/memory/release_agent", "/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    "/sys/fs/cgroup/memory.max", "/proc/1/oom_score_adj", "/proc/1/mem", "/proc/1/uid_map",
], lambda path: os.close(os.open(path, os.O_WRONLY)))


@attempt("be the last that a host short of memory ends")
def _():
    with open("/proc/self/oom_score_adj") as f:
        before = int(f.read())
    write("/proc/self/oom_score_adj", "-1000")
    with open("/proc/self/oom_score_adj") as f:
        after = int(f.read())
    if after >= before:
        raise Refused(after)
    if "gvisor" in platform.release():
        raise Refused("gVisor notes it and tells no host")
    return after


every("open {}", [
    "/dev/mem", "/dev/kmem", "/dev/port", "/dev/kvm", "/dev/sda", "/dev/vda", "/dev/nvme0n1", "/dev/vhost-vsock", "/dev/vhost-net", "/dev/vsock",
    "/dev/loop-control", "/dev/mapper/control", "/dev/kmsg", "/dev/watchdog", "/dev/uinput", "/dev/cpu/0/msr",
], lambda path: os.close(os.open(path, os.O_RDWR)))


# gVisor lets these be opened: they are its own.
attempt("use /dev/fuse")(lambda: os.read(os.open("/dev/fuse", os.O_RDWR), 1))
attempt("use /dev/net/tun")(lambda: fcntl.ioctl(os.open("/dev/net/tun", os.O_RDWR), 0x400454CA, struct.pack("16sH22x", b"tap0", 2)))
attempt("become another by the security module")(lambda: os.write(os.open("/proc/self/attr/current", os.O_WRONLY), b"changeprofile unconfined"))


def content(path):
    with open(path, "rb") as f:
        got = f.read(64)
    if not got:
        raise Refused("empty")
    return got


every("read {}", [
    "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug", "/proc/kpageflags", "/proc/kmsg", "/sys/firmware/dmi/tables/DMI", "/sys/kernel/debug/sched",
    "/sys/kernel/security/lockdown", "/proc/1/environ", "/proc/1/maps", "/proc/1/stack", "/proc/1/auxv", "/run/kernelgw/agent.json", "/proc/1/root/run/kernelgw/agent.json",
    "/etc/shadow", "/proc/1/root/etc/shadow", "/proc/1/cwd/etc/shadow",
], content)
every("list {}", ["/run/kernelgw", "/proc/1/fd", "/proc/1/map_files", "/root", "/proc/1/root/root", "/sys/kernel/debug", "/sys/fs/bpf"], lambda path: os.listdir(path) or Refused("empty"))
every("find {}", ["/var/run/docker.sock", "/run/containerd/containerd.sock", "/run/containerd/s", "/run/dbus/system_bus_socket", "/run/systemd/private", "/var/lib/kubelet"], os.stat)
every("change {}", ["/usr/bin/python3", "/run/kernelgw-agent", "/etc/passwd", "/etc/ssl/certs", "/proc/1/exe"], lambda path: os.close(os.open(path, os.O_WRONLY)) if not os.path.isdir(path) else os.mkdir(path + "/x"))
every("make a device: {}", [(stat.S_IFCHR, 1, 1), (stat.S_IFCHR, 10, 232), (stat.S_IFBLK, 254, 0)], lambda node: make_node(*node))


@attempt("addresses of the kernel")
def _():
    with open("/proc/kallsyms") as f:
        if int(f.readline().split()[0], 16):
            return "told"
    raise Refused("zeros")


@attempt("load eBPF")
def _():
    try:
        return call("bpf", 0, ctypes.create_string_buffer(struct.pack("<IIII", 1, 4, 4, 1), 128), 128)  # a map
    except OSError:
        program = ctypes.create_string_buffer(struct.pack("<QQ", 0xB7, 0x95))  # r0 = 0; exit
        licence = ctypes.create_string_buffer(b"GPL")
        attr = struct.pack("<IIQQ", 1, 2, ctypes.addressof(program), ctypes.addressof(licence))
        return call("bpf", 5, ctypes.create_string_buffer(attr, 128), 128)


attempt("io_uring")(lambda: call("io_uring_setup", 8, ctypes.create_string_buffer(120)))
attempt("add a key")(lambda: call("add_key", b"user", b"kernelgw", b"x", 1, -4))
attempt("ask for a key")(lambda: call("request_key", b"user", b"kernelgw", None, -4))


@attempt("keys of the host")
def _():
    found = []
    for ring in (-1, -2, -3, -4, -5):  # of the thread, process, session, user, user's session
        try:
            found.append(call("keyctl", 11, ring, None, 0))  # KEYCTL_READ: how many bytes there are
        except OSError as e:
            said = e
    if any(found):
        return found
    raise Refused(said if not found else "empty rings")


attempt("userfaultfd")(lambda: call("userfaultfd", 0))
attempt("profile the host")(lambda: call("perf_event_open", ctypes.create_string_buffer(struct.pack("<IIQ", 1, 112, 0), 128), -1, 0, -1, 0))
attempt("load a module")(lambda: call("init_module", b"x", 1, b""))
attempt("load a module from a file")(lambda: call("finit_module", os.open("/dev/null", os.O_RDONLY), b"", 0))
attempt("unload a module")(lambda: call("delete_module", b"x", 0))
attempt("kexec")(lambda: call("kexec_load", 0, 0, None, 0))
attempt("kexec of a file")(lambda: call("kexec_file_load", -1, -1, 0, None, 0))
attempt("reboot")(lambda: call("reboot", 0xFEE1DEAD, 672274793, 0, None))
attempt("open by handle")(lambda: call("open_by_handle_at", -100, ctypes.create_string_buffer(struct.pack("<Ii", 8, 1), 128), 0))
attempt("swapon")(lambda: call("swapon", b"/tmp/swap", 0))
attempt("iopl")(lambda: call("iopl", 3))
attempt("ioperm")(lambda: call("ioperm", 0, 1, 1))
attempt("accounting")(lambda: call("acct", b"/tmp/acct"))
attempt("set the clock")(lambda: call("clock_settime", 0, ctypes.create_string_buffer(struct.pack("<qq", 0, 0))))
attempt("set the host's name")(lambda: call("sethostname", b"x", 1))
attempt("clear the kernel's log")(lambda: call("syslog", 5, None, 0))
attempt("watch all files")(lambda: call("fanotify_init", 0, 0))
attempt("run as real-time")(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)))
attempt("raise a hard limit")(lambda: in_child(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (1 << 22, 1 << 22))))
every("enter the agent's {} namespace", ["mnt", "net", "pid", "user", "ipc", "uts", "cgroup"],
      lambda kind: in_child(lambda: call("setns", os.open(f"/proc/1/ns/{kind}", os.O_RDONLY), 0)))

# The agent.

attempt("ptrace the agent")(lambda: call("ptrace", 16, AGENT, None, None))
attempt("seize the agent")(lambda: call("ptrace", 0x4206, AGENT, None, None))


@attempt("read the agent's memory")
def _():
    local = ctypes.create_string_buffer(16)
    here = struct.pack("QQ", ctypes.addressof(local), 16)
    there = struct.pack("QQ", 0x400000, 16)
    return call("process_vm_readv", AGENT, here, 1, there, 1, 0)


attempt("take a descriptor of the agent")(lambda: call("pidfd_getfd", call("pidfd_open", AGENT, 0), 3, 0))
attempt("compare with the agent")(lambda: call("kcmp", AGENT, AGENT, 0, 0, 0))
attempt("move the agent's pages")(lambda: call("move_pages", AGENT, 0, None, None, None, 0))
every("signal {} to the agent", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGQUIT], lambda s: os.kill(AGENT, s))
attempt("limit the agent")(lambda: resource.prlimit(AGENT, resource.RLIMIT_NOFILE, (3, 3)))
attempt("renice the agent")(lambda: os.setpriority(os.PRIO_PROCESS, AGENT, 19))
attempt("pin the agent")(lambda: os.sched_setaffinity(AGENT, {0}))


def is_under_root(directory):
    up = os.open(directory + "/.." * 64, os.O_PATH)
    return os.path.samestat(os.fstat(up), os.stat("/"))


@attempt("start in a directory that another has open (CVE-2024-21626)")
def _():
    at = os.readlink("/proc/self/cwd")
    if is_under_root(".") and not at.startswith(("/proc/1/", "/run", "(")):
        raise Refused(at)
    return at


@attempt("descriptors that leaked (CVE-2024-21626)")
def _():
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
            info = os.fstat(int(fd))
        except OSError:
            continue  # that of the listing
        if stat.S_ISDIR(info.st_mode):
            if not is_under_root(f"/proc/self/fd/{fd}"):
                return target
        elif target.startswith(("/sys/fs/cgroup", "/var/lib", "/run/", "/proc/1")):
            return target
    raise Refused("none")


# The network, also where there is none.


def set_address():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    name = next(n for _, n in socket.if_nameindex())
    request = struct.pack("16sH2s4s8x", name.encode(), socket.AF_INET, b"", socket.inet_aton("10.143.0.1"))
    return fcntl.ioctl(s, 0x8916, request)  # SIOCSIFADDR


attempt("raw socket")(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW))
attempt("raw socket of IPv6")(lambda: socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6))
attempt("packet socket, for ARP and frames")(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0x0300))
attempt("packet socket of datagrams")(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0x0300))
attempt("packet filter")(lambda: filter_rules())
attempt("take another address")(set_address)


def filter_rules():
    s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)  # NETLINK_NETFILTER
    s.settimeout(1)
    s.bind((0, 0))
    s.send(struct.pack("<IHHIIBBH", 20, (10 << 8) | 1, 0x301, 1, 0, 0, 0, 0))  # NFT_MSG_GETTABLE, all
    kind, _, _, _, code = struct.unpack_from("<HHIIi", s.recv(4096), 4)
    if kind == 2 and code < 0:
        raise OSError(-code, os.strerror(-code))
    return kind


@attempt("another hardware address")
def _():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    name = next(n for _, n in reversed(socket.if_nameindex()))
    return fcntl.ioctl(s, 0x8924, struct.pack("16sH6s8x", name.encode(), 1, b"\x02" * 6))  # SIOCSIFHWADDR


@attempt("an entry in the ARP table")
def _():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    address = struct.pack("H2s4s8x", socket.AF_INET, b"", socket.inet_aton("10.143.0.1"))
    return fcntl.ioctl(s, 0x8955, address + struct.pack("H14s", 1, b"\x02" * 6) + struct.pack("i16s16s", 4, b"", b""))  # SIOCSARP


@attempt("a route by netlink")
def _():
    s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    s.settimeout(1)
    s.bind((0, 0))
    route = struct.pack("<BBBBBBBBI", 2, 32, 0, 0, 254, 3, 0, 1, 0) + struct.pack("<HH4s", 8, 1, socket.inet_aton("169.254.169.254")) + struct.pack("<HHI", 8, 4, 1)
    s.send(struct.pack("<IHHII", 16 + len(route), 24, 0x605, 1, 0) + route)
    kind, _, _, _, code = struct.unpack_from("<HHIIi", s.recv(4096), 4)
    if kind == 2 and code == 0:
        return "added"
    raise OSError(-code, os.strerror(-code))


def foreign_source(option, value):
    s = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    s.setsockopt(socket.SOL_IP, option, value)
    s.bind(("198.51.100.7", 0))
    return s.getsockname()


attempt("bind to an address of another")(lambda: foreign_source(19, 1))  # IP_TRANSPARENT


def vsock(cid):
    s = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    s.settimeout(1)
    s.connect((cid, 1024))


every("vsock to {}", [0, 1, 2, 3], vsock)


@attempt("sockets of the host without a file")
def _():
    reached = []
    with open("/proc/net/unix") as f:
        for line in f:
            name = line.rstrip("\n").split(" ")[-1]
            if name.startswith("@") and any(known in name for known in ("containerd", "docker", "dbus", "systemd", "kernelgw", "shim")):
                reached.append(name)
    if not reached:
        raise Refused("none")
    return reached


def dial(address):
    host, port = address
    s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    s.settimeout(1)
    s.connect((host, port))


every("connect to {}", [("169.254.169.254", 80), ("169.254.170.2", 80), ("100.100.100.200", 80), ("fd00:ec2::254", 80), ("192.0.2.1", 443), ("192.0.2.1", 853), ("10.143.0.1", 6379)], dial)


def fail(*_):
    raise Refused("it does not come back")


def main():
    signal.signal(signal.SIGALRM, fail)
    for name, f in attempts.items():
        signal.alarm(5)
        try:
            got = f()
            refused = isinstance(got, Refused)
        except Exception as e:
            got, refused = f"{type(e).__name__}: {e}", True
        signal.alarm(0)
        print(json.dumps([name, refused, str(got)[:200]]), flush=True)
    print(json.dumps(["", True, str(len(attempts))]))


main()
