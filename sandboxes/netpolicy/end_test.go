package netpolicy

import (
	"errors"
	"os"
	"slices"
	"testing"

	"github.com/vishvananda/netns"
)

// endedOn ends a network and returns the sandboxes that it had ended.
func endedOn(t *testing.T, host netns.NsHandle, dir string, fail error) ([]string, error) {
	t.Helper()
	copied, err := netns.GetFromPath(fdPath(host))
	if err != nil {
		t.Fatal(err)
	}
	var ended []string
	err = endOn(Options{StateDir: dir}, copied, func(id string) error {
		ended = append(ended, id)
		return fail
	})
	slices.Sort(ended)
	return ended, err
}

// A gateway whose sandboxes are to have no network follows one whose had.
func TestEndLeavesNothingOfSlotsAndTheirSandboxes(t *testing.T) {
	t.Parallel()
	host, dir := newHost(t), t.TempDir()
	n := openOn(t, host, Options{StateDir: dir, Ready: 2})
	waitReady(t, n, 2)
	acquire(t, n, "a")
	acquire(t, n, "b")
	if _, err := endedOn(t, host, dir, nil); !errors.Is(err, errInUse) {
		t.Errorf("while it is open: %v", err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}

	// A sandbox that cannot be ended keeps its slot.
	if _, err := endedOn(t, host, dir, os.ErrPermission); !errors.Is(err, os.ErrPermission) {
		t.Errorf("a sandbox that does not end: %v", err)
	}
	again := openOn(t, host, Options{StateDir: dir})
	if list := again.List(); len(list) != 2 {
		t.Errorf("slots of sandboxes that run: %v", list)
	} else if err := agentAnswers(again, list[0]); err != nil {
		t.Error(err)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}

	ended, err := endedOn(t, host, dir, nil)
	if err != nil || !slices.Equal(ended, []string{"a", "b"}) {
		t.Errorf("ended %v, %v", ended, err)
	}
	for _, left := range leftovers(t, host, dir) {
		t.Errorf("left behind: %s", left)
	}
	if ended, err := endedOn(t, host, dir, nil); err != nil || len(ended) > 0 {
		t.Errorf("the second time: %v, %v", ended, err)
	}
	if ended, err := endedOn(t, host, dir+"/none", nil); err != nil || len(ended) > 0 {
		t.Errorf("where there never was one: %v, %v", ended, err)
	}
}
