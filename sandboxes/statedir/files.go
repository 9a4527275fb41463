package statedir

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"kernelgw/sandboxes"
)

// Write puts v into a file as JSON, whole or not at all, for the owner only. It
// is not synced: after a loss of power the file may be cut short.
func Write(file string, v any) error {
	return write(file, v, os.Rename)
}

// WriteOnce is Write, but where there is such a file already it fails with
// fs.ErrExist and leaves that alone.
func WriteOnce(file string, v any) error {
	return write(file, v, os.Link)
}

// write writes a file aside and has appear put it in its place.
func write(file string, v any, appear func(from, to string) error) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", file, err)
	}
	aside, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-") // mode 0600
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", file, err)
	}
	defer os.Remove(aside.Name())
	_, err = aside.Write(data)
	if err = errors.Join(err, aside.Close()); err == nil {
		err = appear(aside.Name(), file)
	}
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", file, err)
	}
	return nil
}

// Read reads what Write wrote. The error is fs.ErrNotExist when there is no such
// file; IsCut tells whether it is half a file.
func Read(file string, v any) error {
	data, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(data, v)
	}
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", file, err)
	}
	return nil
}

// IsCut reports whether Read failed because the file was cut short, as by the
// host's loss of power. What ran at the time is gone with that.
func IsCut(err error) bool { return errors.As(err, new(*json.SyntaxError)) }

// exitName is how a sandbox ended.
const exitName = "exit.json"

// ReadExit returns how the sandbox in dir ended. The error is fs.ErrNotExist
// while that is not recorded, or not any more.
func ReadExit(dir string) (sandboxes.Exit, error) {
	var exit sandboxes.Exit
	err := Read(filepath.Join(dir, exitName), &exit)
	if IsCut(err) {
		return sandboxes.Exit{}, fmt.Errorf("cannot read how it ended, the record is cut short: %w", fs.ErrNotExist)
	}
	return exit, err
}

// RecordExit writes down how the sandbox in dir ended, and returns what is written
// down: who was first is right, so that all are told the same. Without a time it
// ended now. The error is fs.ErrNotExist when dir is gone.
func RecordExit(dir string, exit sandboxes.Exit) (sandboxes.Exit, error) {
	if exit.At.IsZero() {
		exit.At = time.Now()
	}
	exit.At = exit.At.UTC().Round(0)
	file := filepath.Join(dir, exitName)
	if err := WriteOnce(file, exit); err != nil && !errors.Is(err, fs.ErrExist) {
		return sandboxes.Exit{}, err
	}
	written, err := ReadExit(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		return written, err
	}
	// Cut short, or the whole directory is gone, which is told again.
	return exit, Write(file, exit)
}
