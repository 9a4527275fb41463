package terminal

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// open opens a pty, whose other side, tty, belongs to owner: programs open it by
// its name, too.
func open(owner *syscall.Credential) (master, tty *os.File, err error) {
	opened, tty, err := pty.Open()
	if err != nil {
		return nil, nil, fmt.Errorf("cannot open a pty: %w", err)
	}
	defer opened.Close()
	if owner != nil {
		// The mode while it is ours: we may not have the capability for what
		// belongs to others.
		if err = tty.Chmod(0o600); err == nil {
			err = tty.Chown(int(owner.Uid), int(owner.Gid))
		}
		if err != nil {
			return nil, nil, errors.Join(fmt.Errorf("cannot give a pty to the user: %w", err), tty.Close())
		}
	}
	// A descriptor of our own that does not block: a read of the one that was
	// opened would not end when it is closed.
	fd, err := unix.FcntlInt(opened.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("cannot open a pty: %w", err), tty.Close())
	}
	master = os.NewFile(uintptr(fd), opened.Name())
	if err := setSize(master, defaultSize); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("cannot size a pty: %w", err), tty.Close(), master.Close())
	}
	return master, tty, nil
}

// setSize tells a pty how large it is; the programs in front get SIGWINCH. Not
// by the library, which would make the descriptor one that blocks.
func setSize(master *os.File, s size) error {
	raw, err := master.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: s.rows, Col: s.cols})
	})
	return errors.Join(err, failed)
}
