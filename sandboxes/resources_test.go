package sandboxes_test

import (
	"errors"
	"math"
	"reflect"
	"testing"

	"kernelgw/sandboxes"
)

func TestWhatASpecSaysComesBeforeTheDefaults(t *testing.T) {
	defaults := sandboxes.Resources{CPUs: 2, MemoryBytes: 2 << 30, Processes: 1024, DiskBytes: 4 << 30, OpenFiles: 4096}
	for name, c := range map[string]struct{ asked, want sandboxes.Resources }{
		"nothing": {
			sandboxes.Resources{},
			sandboxes.Resources{CPUs: 2, MemoryBytes: 2 << 30, Processes: 1024, DiskBytes: 4 << 30, ShmBytes: 512 << 20, OpenFiles: 4096},
		},
		"memory: /dev/shm is a quarter of it": {
			sandboxes.Resources{MemoryBytes: 1 << 30},
			sandboxes.Resources{CPUs: 2, MemoryBytes: 1 << 30, Processes: 1024, DiskBytes: 4 << 30, ShmBytes: 256 << 20, OpenFiles: 4096},
		},
		"all": {
			sandboxes.Resources{CPUs: 0.5, MemoryBytes: 64 << 20, Processes: 5, DiskBytes: 6, ShmBytes: 7, OpenFiles: 8},
			sandboxes.Resources{CPUs: 0.5, MemoryBytes: 64 << 20, Processes: 5, DiskBytes: 6, ShmBytes: 7, OpenFiles: 8},
		},
	} {
		if got, err := c.asked.Complete(defaults); err != nil || got != c.want {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, c.want)
		}
	}
	defaults.ShmBytes = 1 << 20
	if got, err := (sandboxes.Resources{}).Complete(defaults); err != nil || got.ShmBytes != 1<<20 {
		t.Errorf("the default of /dev/shm: %d, %v", got.ShmBytes, err)
	}
}

func TestImpossibleLimitsAreRefused(t *testing.T) {
	fields := reflect.TypeFor[sandboxes.Resources]()
	for i := range fields.NumField() {
		var r sandboxes.Resources
		switch f := reflect.ValueOf(&r).Elem().Field(i); f.Kind() {
		case reflect.Float64:
			f.SetFloat(-0.1)
		default:
			f.SetInt(-1)
		}
		if _, err := r.Complete(sandboxes.Resources{MemoryBytes: 1 << 30}); !errors.Is(err, sandboxes.ErrInvalid) {
			t.Errorf("a negative %s: %v", fields.Field(i).Name, err)
		}
	}
	if _, err := (sandboxes.Resources{MemoryBytes: 64<<20 - 1}).Complete(sandboxes.Resources{}); !errors.Is(err, sandboxes.ErrInvalid) {
		t.Errorf("too little memory: %v", err)
	}
}

// A limit that Or forgets would be a default that is not enforced.
func TestOrTakesEveryLimit(t *testing.T) {
	var all sandboxes.Resources
	v := reflect.ValueOf(&all).Elem()
	for i := range v.NumField() {
		if v.Field(i).Kind() == reflect.Float64 {
			v.Field(i).SetFloat(float64(i + 1))
		} else {
			v.Field(i).SetInt(int64(i + 1))
		}
	}
	if got := (sandboxes.Resources{}).Or(all); got != all {
		t.Errorf("nothing, or %+v, is %+v", all, got)
	}
	if got := all.Or(sandboxes.Resources{CPUs: 99, MemoryBytes: 99, Processes: 99, DiskBytes: 99, ShmBytes: 99, OpenFiles: 99}); got != all {
		t.Errorf("%+v, or others, is %+v", all, got)
	}
}

func TestFormatBytes(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1 KiB", 512 << 20: "512 MiB", 2 << 30: "2.0 GiB", 1 << 50: "1024.0 TiB", math.MaxInt64: "8388608.0 TiB",
	} {
		if got := sandboxes.FormatBytes(n); got != want {
			t.Errorf("FormatBytes(%d) = %q, want %q", n, got, want)
		}
	}
}
