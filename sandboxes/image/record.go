package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// maxOrigins is how many names an image is remembered to have come by.
const maxOrigins = 32

// record is what the store remembers of an image beside its content: it lets a
// policy decide again, without a network, when the image is used. Images that
// were stored before there were records have none.
type record struct {
	// Origins are full registry references, and names of images of this host:
	// under each of them the image was admitted once.
	Origins    []string    `json:"origins"`
	Signatures []Signature `json:"signatures,omitempty"`
	Tree       *seal       `json:"tree,omitempty"`
}

func (s *Store) recordFile(digest v1.Hash) string {
	return filepath.Join(s.dir, recordDir, digest.Hex+".json")
}

// recordDir holds the records, by digest.
const recordDir = "records"

func (s *Store) readRecord(digest v1.Hash) (record, error) {
	var r record
	raw, err := os.ReadFile(s.recordFile(digest))
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &r)
	}
	if err != nil {
		return r, fmt.Errorf("cannot read what is known of image %s: %w", digest, err)
	}
	return r, nil
}

// writeRecord needs the lock of the store.
func (s *Store) writeRecord(digest v1.Hash, r record) error {
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot write what is known of image %s: %w", digest, err)
	}
	return replaceFile(filepath.Join(s.dir, "tmp"), s.recordFile(digest), raw)
}

// learn adds that the image came from there, with these signatures.
func (r *record) learn(origin string, signatures []Signature) {
	if !slices.Contains(r.Origins, origin) {
		r.Origins = append(r.Origins, origin)
	}
	if over := len(r.Origins) - maxOrigins; over > 0 {
		r.Origins = r.Origins[over:]
	}
	for _, sig := range signatures {
		if sig.unreadable == nil && len(r.Signatures) < 2*maxSignatures && !slices.ContainsFunc(r.Signatures, sig.same) {
			r.Signatures = append(r.Signatures, sig)
		}
	}
}

// same reports whether both are the same signature, wherever they were found.
func (s Signature) same(o Signature) bool {
	return string(s.Bundle) == string(o.Bundle) && string(s.Payload) == string(o.Payload) && s.Signature == o.Signature &&
		s.Certificate == o.Certificate && string(s.LogEntry) == string(o.LogEntry) && string(s.Index) == string(o.Index)
}

// localOrigin is as what an image of this host is judged: its name, which must
// not pass for a registry reference.
func localOrigin(name string) string { return strings.ReplaceAll(name, "/", "_") }

// collectRecords removes the records of images that the index does not name.
func (s *Store) collectRecords(index v1.IndexManifest) error {
	files, err := os.ReadDir(filepath.Join(s.dir, recordDir))
	if err != nil {
		return fmt.Errorf("cannot clean image store: %w", err)
	}
	for _, f := range files {
		hex := strings.TrimSuffix(f.Name(), ".json")
		if slices.ContainsFunc(index.Manifests, func(m v1.Descriptor) bool { return m.Digest.Hex == hex }) {
			continue
		}
		if err := os.Remove(filepath.Join(s.dir, recordDir, f.Name())); err != nil {
			return fmt.Errorf("cannot clean image store: %w", err)
		}
	}
	return nil
}
