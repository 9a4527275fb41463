package contents

import (
	"errors"
	"testing"
)

func TestNobodyTakesTheRoomOfOthers(t *testing.T) {
	all := &shares{limit: 100}
	one, two, other := &share{of: all, owner: "ann"}, &share{of: all, owner: "ann"}, &share{of: all, owner: "bob"}
	for _, s := range []*share{one, two, other} {
		if err := s.file(); err != nil {
			t.Fatal(err)
		}
	}
	var much *shareError
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	must(one.grow(60))
	if err := two.grow(41); !errors.As(err, &much) || much.bytes != 60 {
		t.Errorf("60 and 41 of 100 bytes: %v", err)
	}
	must(two.grow(40))
	must(other.grow(100))
	// A small disk: nobody holds more than is left for the rest.
	must(one.leaves(100))
	if err := one.leaves(99); !errors.As(err, &much) {
		t.Errorf("100 bytes with 99 left: %v", err)
	}
	one.end()
	one.end()
	must(two.grow(100))
	var more []*share
	for range spoolFiles - 1 {
		s := &share{of: all, owner: "ann"}
		must(s.file())
		more = append(more, s)
	}
	if err := (&share{of: all, owner: "ann"}).file(); !errors.As(err, &much) || much.files != spoolFiles {
		t.Errorf("one file more than may be: %v", err)
	}
	must(other.file()) // it has one
	for _, s := range append(more, two, other) {
		s.end()
	}
	if len(all.by) != 0 {
		t.Errorf("in the end %v is held", all.by)
	}
}
