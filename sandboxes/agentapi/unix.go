package agentapi

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// maxUnixPath is the longest path that a socket address takes; one of 108 bytes
// is for the terminating zero.
const maxUnixPath = 107

// DialUnix connects to a Unix socket whose path may be longer than a socket
// address can hold. The last name of the path must be the socket itself: whoever
// is inside a sandbox may be able to put a link there, to a socket that is not
// theirs to speak to, least of all with the agent's token.
func DialUnix(ctx context.Context, path string) (net.Conn, error) {
	socket, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open socket %s: %w", path, err)
	}
	defer unix.Close(socket)
	var stat unix.Stat_t
	if err := unix.Fstat(socket, &stat); err != nil {
		return nil, fmt.Errorf("cannot look at socket %s: %w", path, err)
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return nil, fmt.Errorf("cannot connect to %s: it is not a socket", path)
	}
	// By descriptor: the name may be another's by now.
	var d net.Dialer
	return d.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d", socket))
}

// ListenUnix listens on a Unix socket whose path may be longer than a socket
// address can hold. A socket that nobody listens on any more is replaced.
// Closing the listener removes the socket.
func ListenUnix(path string) (net.Listener, error) {
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() == os.ModeSocket {
		if conn, err := DialUnix(context.Background(), path); err == nil {
			conn.Close()
			return nil, fmt.Errorf("cannot listen on %s: somebody does already", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("cannot remove the old socket: %w", err)
		}
	}
	var l net.Listener
	err := withShortPath(path, func(short string) error {
		var err error
		l, err = net.Listen("unix", short)
		return err
	})
	if err != nil {
		return nil, err
	}
	// The name it was made under may be gone by then.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	return &unixListener{l, path}, nil
}

type unixListener struct {
	net.Listener
	path string
}

// Close implements net.Listener.
func (l *unixListener) Close() error {
	err := l.Listener.Close()
	if err == nil {
		os.Remove(l.path) // a driver removes the directory anyway
	}
	return err
}

// withShortPath calls use with a name for path that fits into a socket address.
// It is valid during the call.
func withShortPath(path string, use func(string) error) error {
	if len(path) <= maxUnixPath {
		return use(path)
	}
	dir, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot open the directory of socket %s: %w", path, err)
	}
	defer unix.Close(dir)
	return use(fmt.Sprintf("/proc/self/fd/%d/%s", dir, filepath.Base(path)))
}
