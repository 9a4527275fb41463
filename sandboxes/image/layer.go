package image

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// epoch is the modification time of everything in a built layer when
// SOURCE_DATE_EPOCH says nothing else: after 1980, so that it fits into zips.
const epoch = 1_735_689_600 // 2025-01-01

// fileLayer is a compressed layer in a file.
type fileLayer struct {
	file           string
	digest, diffID v1.Hash
	size           int64
}

// writeLayer packs the tree at dir into a gzipped tar at file. The same tree
// gives the same bytes: entries are sorted, times are one time, owners are
// root but for the home of the kernel's user.
func writeLayer(ctx context.Context, dir, file string, when time.Time, in *inputs, p *Progress) (*fileLayer, error) {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	packed := &hashingWriter{w: f, sum: sha256.New()}
	buffered := bufio.NewWriterSize(packed, 1<<20)
	zip, err := gzip.NewWriterLevel(buffered, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	plain := &hashingWriter{w: zip, sum: sha256.New()}
	t := &treeWriter{tw: tar.NewWriter(plain), when: when, in: in, p: p}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	if err := t.write(ctx, root); err != nil {
		return nil, fmt.Errorf("cannot pack the image: %w", err)
	}
	for _, end := range []func() error{t.tw.Close, zip.Close, buffered.Flush, f.Close} {
		if err := end(); err != nil {
			return nil, fmt.Errorf("cannot pack the image: %w", err)
		}
	}
	p.Say("packed %d files: %s, %s compressed", t.files, mb(plain.n), mb(packed.n))
	return &fileLayer{file: file, digest: packed.hash(), diffID: plain.hash(), size: packed.n}, nil
}

type hashingWriter struct {
	w   io.Writer
	sum hash.Hash
	n   int64
}

func (h *hashingWriter) Write(b []byte) (int, error) {
	n, err := h.w.Write(b)
	h.sum.Write(b[:n])
	h.n += int64(n)
	return n, err
}

func (h *hashingWriter) hash() v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(h.sum.Sum(nil))}
}

type treeWriter struct {
	tw    *tar.Writer
	when  time.Time
	in    *inputs
	p     *Progress
	files int
}

func (t *treeWriter) write(ctx context.Context, root *os.Root) error {
	// WalkDir goes in lexical order.
	return fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if name == "." || t.in.excluded(name) {
			// Not SkipDir: a pattern may bring back something below.
			return nil
		}
		return t.entry(root, name, d)
	})
}

func (t *treeWriter) entry(root *os.Root, name string, d fs.DirEntry) error {
	info, err := d.Info()
	if err != nil {
		return err
	}
	hdr := &tar.Header{Name: name, ModTime: t.when, Format: tar.FormatPAX, Mode: int64(info.Mode().Perm())}
	if home := strings.TrimPrefix(fallbackHome, "/"); name == home || strings.HasPrefix(name, home+"/") {
		hdr.Uid, hdr.Gid = fallbackID, fallbackID
	}
	switch info.Mode().Type() {
	case fs.ModeDir:
		hdr.Typeflag, hdr.Name = tar.TypeDir, name+"/"
		if info.Mode()&fs.ModeSticky != 0 {
			hdr.Mode |= 0o1000
		}
		return t.tw.WriteHeader(hdr)
	case fs.ModeSymlink:
		hdr.Typeflag, hdr.Mode = tar.TypeSymlink, 0o777
		if hdr.Linkname, err = root.Readlink(name); err != nil {
			return err
		}
		return t.tw.WriteHeader(hdr)
	case 0:
		hdr.Typeflag, hdr.Size = tar.TypeReg, info.Size()
	default:
		return fmt.Errorf("%s is a %s, which an image cannot hold", path.Join("/", name), info.Mode().Type())
	}
	if err := t.tw.WriteHeader(hdr); err != nil {
		return err
	}
	f, err := root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	t.files++
	t.p.Tick("packing: %d files", t.files)
	_, err = io.Copy(t.tw, f)
	return err
}

// The methods of v1.Layer.

func (l *fileLayer) Digest() (v1.Hash, error)            { return l.digest, nil }
func (l *fileLayer) DiffID() (v1.Hash, error)            { return l.diffID, nil }
func (l *fileLayer) Size() (int64, error)                { return l.size, nil }
func (l *fileLayer) MediaType() (types.MediaType, error) { return types.OCILayer, nil }
func (l *fileLayer) Compressed() (io.ReadCloser, error)  { return os.Open(l.file) }
func (l *fileLayer) Uncompressed() (io.ReadCloser, error) {
	f, err := os.Open(l.file)
	if err != nil {
		return nil, err
	}
	zip, err := gzip.NewReader(f)
	if err != nil {
		f.Close()
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{zip, f}, nil
}
