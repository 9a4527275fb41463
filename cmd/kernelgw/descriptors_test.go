package main

import (
	"strings"
	"testing"
)

func TestFewDescriptorsAreToldWithTheRemedy(t *testing.T) {
	for _, tc := range []struct {
		limit   uint64
		sockets int
		few     bool
	}{{1 << 20, 1000, false}, {2200, 1000, false}, {2199, 1000, true}, {1024, 1000, true}, {1024, 100, false}} {
		problem := fewDescriptors(tc.limit, tc.sockets)
		if few := problem != ""; few != tc.few {
			t.Errorf("%d descriptors for %d sockets: %q", tc.limit, tc.sockets, problem)
		}
		if tc.few && (!strings.Contains(problem, "LimitNOFILE") || !strings.Contains(problem, "max_sockets")) {
			t.Errorf("no remedy in %q", problem)
		}
	}
}
