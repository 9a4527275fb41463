package image

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Debian's own ldconfig reads the cache that we write.
func TestLoaderCacheIsReadByLdconfig(t *testing.T) {
	libs := []library{
		{"libc.so.6", "/lib/x86_64-linux-gnu/libc.so.6"},
		{"libz.so.1", "/lib/x86_64-linux-gnu/libz.so.1"},
		{"libssl.so.3", "/lib/x86_64-linux-gnu/libssl.so.3"},
		{"libz.so.10", "/lib/x86_64-linux-gnu/libz.so.10"},
	}
	file := filepath.Join(t.TempDir(), "ld.so.cache")
	if err := os.WriteFile(file, loaderCache(libs, 0x0303), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("/sbin/ldconfig", "-p", "-C", file).CombinedOutput()
	if err != nil {
		t.Fatalf("ldconfig is needed, as Debian has it: %v\n%s", err, out)
	}
	if !strings.Contains(string(out), "4 libs found") {
		t.Errorf("ldconfig says:\n%s", out)
	}
	for _, l := range libs {
		if !strings.Contains(string(out), l.name+" (libc6,x86-64) => "+l.file) {
			t.Errorf("ldconfig does not find %s:\n%s", l.name, out)
		}
	}
}

func TestLibrariesAreOrderedAsTheLoaderSearches(t *testing.T) {
	names := []string{"libb.so.1", "liba.so.10", "liba.so.9", "liba.so", "ld-linux.so.2", "liba2.so", "lib.so"}
	slices.SortFunc(names, compareLibraries)
	want := []string{"ld-linux.so.2", "lib.so", "liba.so", "liba.so.9", "liba.so.10", "liba2.so", "libb.so.1"}
	if !slices.Equal(names, want) {
		t.Errorf("order %v, want %v", names, want)
	}
}
