package image

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
)

// library is one entry of the dynamic loader's cache.
type library struct {
	name string // as programs ask for it
	file string // absolute path inside the image
}

var libraryName = regexp.MustCompile(`^(lib|ld-).*\.so(\.|$)`)

// writeLoaderCache makes /etc/ld.so.cache, as ldconfig would, which itself
// needs root to look at another root than the host's. Programs start without
// it, but Python's ctypes.util.find_library reads it.
func writeLoaderCache(root *os.Root, triple string) error {
	flags, ok := map[string]int32{"x86_64-linux-gnu": 0x0303, "aarch64-linux-gnu": 0x0a03}[triple]
	if !ok {
		return fmt.Errorf("cannot make the loader's cache for %s", triple)
	}
	var libs []library
	for _, dir := range []string{path.Join("usr/lib", triple), "usr/lib"} {
		entries, err := fs.ReadDir(root.FS(), dir)
		if err != nil {
			return fmt.Errorf("cannot make the loader's cache: %w", err)
		}
		for _, e := range entries {
			if !libraryName.MatchString(e.Name()) || slices.ContainsFunc(libs, func(l library) bool { return l.name == e.Name() }) {
				continue
			}
			if isLibrary(root, path.Join(dir, e.Name())) {
				libs = append(libs, library{e.Name(), path.Join("/", strings.TrimPrefix(dir, "usr/"), e.Name())})
			}
		}
	}
	return root.WriteFile("etc/ld.so.cache", loaderCache(libs, flags), 0o644)
}

// isLibrary reports whether programs may ask for the file by its name: it is
// the library's own name, or the link that linkers use.
func isLibrary(root *os.Root, file string) bool {
	real, err := resolve(root, file, true)
	if err != nil {
		return false
	}
	f, err := root.Open(real)
	if err != nil {
		return false
	}
	defer f.Close()
	lib, err := elf.NewFile(f)
	if err != nil || lib.Type != elf.ET_DYN || lib.Class != elf.ELFCLASS64 {
		return false
	}
	names, err := lib.DynString(elf.DT_SONAME)
	if err != nil || len(names) == 0 {
		return true // as ldconfig takes such a file by its file name
	}
	return names[0] == path.Base(file) || strings.HasSuffix(file, ".so")
}

// loaderCache encodes the cache in the only form that glibc 2.32 and later
// read (glibc, sysdeps/generic/dl-cache.h: struct cache_file_new).
func loaderCache(libs []library, flags int32) []byte {
	libs = slices.Clone(libs)
	// The loader searches by bisection and expects this order.
	slices.SortFunc(libs, func(a, b library) int { return compareLibraries(b.name, a.name) })
	const headerBytes, entryBytes = 48, 24
	var text bytes.Buffer
	at := func(s string) uint32 {
		offset := headerBytes + entryBytes*len(libs) + text.Len()
		text.WriteString(s + "\x00")
		return uint32(offset)
	}
	var entries bytes.Buffer
	for _, l := range libs {
		entries.Write(binary.LittleEndian.AppendUint32(nil, uint32(flags)))
		entries.Write(binary.LittleEndian.AppendUint32(nil, at(l.name)))
		entries.Write(binary.LittleEndian.AppendUint32(nil, at(l.file)))
		entries.Write(make([]byte, 12)) // no least kernel version, no hardware needs
	}
	out := []byte("glibc-ld.so.cache1.1")
	out = binary.LittleEndian.AppendUint32(out, uint32(len(libs)))
	out = binary.LittleEndian.AppendUint32(out, uint32(text.Len()))
	out = append(out, 2, 0, 0, 0) // little endian
	out = append(out, make([]byte, headerBytes-len(out))...)
	out = append(out, entries.Bytes()...)
	return append(out, text.Bytes()...)
}

// compareLibraries orders names as glibc's _dl_cache_libcmp: runs of digits by
// their value, all else by bytes, a digit after any other.
func compareLibraries(a, b string) int {
	for a != "" && b != "" {
		switch da, db := isDigit(a[0]), isDigit(b[0]); {
		case da && db:
			na, restA := leadingNumber(a)
			nb, restB := leadingNumber(b)
			if na != nb {
				return na - nb
			}
			a, b = restA, restB
		case da:
			return 1
		case db:
			return -1
		case a[0] != b[0]:
			return int(a[0]) - int(b[0])
		default:
			a, b = a[1:], b[1:]
		}
	}
	return len(a) - len(b)
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func leadingNumber(s string) (n int, rest string) {
	for s != "" && isDigit(s[0]) {
		n, s = n*10+int(s[0]-'0'), s[1:]
	}
	return n, s
}
