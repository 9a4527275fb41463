package servers

import (
	"errors"
	"testing"
)

// ForTest starts a kernelgw for one test and closes it at its end. The log is shown
// when the test fails.
func ForTest(t testing.TB, o Options) *Process {
	t.Helper()
	p, err := Kernelgw(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	closeWith(t, "kernelgw", p)
	return p
}

// WayForTest lays a way to a gateway for one test, as ThroughNginx does, and takes it
// down at its end. The test is skipped where there is no nginx.
func WayForTest(t testing.TB, gateway *Process, patient bool) *Way {
	t.Helper()
	w, err := ThroughNginx(t.Context(), gateway, patient)
	if errors.Is(err, ErrNoNginx) {
		t.Skipf("!! %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	closeWith(t, "nginx", w)
	return w
}

func closeWith(t testing.TB, name string, what interface {
	Log() string
	Close() error
},
) {
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of %s:\n%s", name, what.Log())
		}
		if err := what.Close(); err != nil {
			t.Error(err)
		}
	})
}
