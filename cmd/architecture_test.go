package cmd_test

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The package list of docs/architecture.md is complete, and lists nothing that
// is gone.
func TestArchitectureDocListsEveryPackage(t *testing.T) {
	doc, err := os.ReadFile("../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	_, list, ok := strings.Cut(string(doc), "\n## Packages\n")
	list, _, closed := strings.Cut(list, "\n## ")
	if !ok || !closed {
		t.Fatal("docs/architecture.md has no section Packages")
	}
	var listed []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z/0-9-]+)` \\|").FindAllStringSubmatch(list, -1) {
		listed = append(listed, row[1])
	}

	var exist []string
	err = filepath.WalkDir("..", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && p != ".." && (strings.HasPrefix(name, ".") || name == "testdata" || name == "node_modules" || name == "tools") {
			return fs.SkipDir
		}
		if strings.HasSuffix(name, ".go") {
			exist = append(exist, filepath.ToSlash(path.Dir(strings.TrimPrefix(p, "../"))))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(exist)
	exist = slices.Compact(exist)
	for _, p := range exist {
		// A program or test of a package's own needs no row.
		if !slices.Contains(listed, p) && !slices.Contains(listed, path.Dir(p)) && p != "cmd" {
			t.Errorf("docs/architecture.md does not list package %s", p)
		}
	}
	for _, p := range listed {
		if !slices.Contains(exist, p) {
			t.Errorf("docs/architecture.md lists %s, which does not exist", p)
		}
	}
}
