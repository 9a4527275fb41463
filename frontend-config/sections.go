package frontend

import (
	"encoding/json"
	"errors"
	"hash/maphash"
	"io/fs"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// section is what a section of the configuration may be called.
var section = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,100}$`)

// maxSections bounds how many sections a user keeps: the applications have fewer
// than ten, and documents do not count for the quota.
const maxSections = 100

var lockSeed = maphash.MakeSeed()

// GetConfig answers with a section of the user's configuration, {} when there
// is none: api/config/*. Extensions of the browser keep there what they like.
func (f *Frontend) GetConfig(w http.ResponseWriter, r *http.Request, at At) error {
	values, err := f.readSection(r, at)
	if err != nil {
		return err
	}
	return writeJSON(w, r, values)
}

// PutConfig replaces a section: api/config/*.
func (f *Frontend) PutConfig(w http.ResponseWriter, r *http.Request, at At) error {
	document, err := sectionDocument(at)
	if err != nil {
		return err
	}
	values, err := readObject(r)
	if err != nil {
		return err
	}
	if err := f.writeSection(r, at, document, values); err != nil {
		return err
	}
	return noContent(w)
}

// PatchConfig merges into a section, null deleting a key, and answers with it:
// api/config/*.
func (f *Frontend) PatchConfig(w http.ResponseWriter, r *http.Request, at At) error {
	document, err := sectionDocument(at)
	if err != nil {
		return err
	}
	changes, err := readObject(r)
	if err != nil {
		return err
	}
	// Two tabs that patch at once must both win. Behind two gateways, the last
	// one does.
	lock := &f.patching[maphash.String(lockSeed, at.User+"\x00"+document)%uint64(len(f.patching))]
	lock.Lock()
	defer lock.Unlock()
	values, err := f.readSection(r, at)
	if err != nil {
		return err
	}
	merge(values, changes)
	if err := f.writeSection(r, at, document, values); err != nil {
		return err
	}
	return writeJSON(w, r, values)
}

// sectionDocuments is the start of the names of documents with sections.
const sectionDocuments = "config/"

func sectionDocument(at At) (string, error) {
	name := strings.Trim(at.Path, "/")
	if !section.MatchString(name) {
		return "", errorf(http.StatusNotFound, "There is no such section")
	}
	return sectionDocuments + name, nil
}

// readObject reads a body that is a JSON object.
func readObject(r *http.Request) (map[string]any, error) {
	var values map[string]any
	if err := readJSON(r, &values); err != nil {
		return nil, err
	}
	if values == nil {
		return nil, errorf(http.StatusBadRequest, "The body must be a JSON object")
	}
	return values, nil
}

func (f *Frontend) readSection(r *http.Request, at At) (map[string]any, error) {
	document, err := sectionDocument(at)
	if err != nil {
		return nil, err
	}
	body, _, err := f.o.Documents.GetDocument(r.Context(), at.User, document)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return map[string]any{}, nil
	case err != nil:
		return nil, unavailable("configuration", err)
	}
	values := map[string]any{}
	if err := json.Unmarshal(body, &values); err != nil {
		return nil, internal(err)
	}
	return values, nil
}

func (f *Frontend) writeSection(r *http.Request, at At, document string, values map[string]any) error {
	body, err := json.Marshal(values)
	if err != nil {
		return internal(err)
	}
	if len(body) > maxBody {
		return errorf(http.StatusRequestEntityTooLarge, "The section would be larger than %d bytes", maxBody)
	}
	kept, err := f.o.Documents.ListDocuments(r.Context(), at.User, sectionDocuments)
	if err != nil {
		return unavailable("configuration", err)
	}
	if len(kept) >= maxSections && !slices.Contains(kept, document) {
		return errorf(http.StatusForbidden, "There are %d sections, and no more are kept", len(kept))
	}
	if err := f.o.Documents.PutDocument(r.Context(), at.User, document, body); err != nil {
		return unavailable("configuration", err)
	}
	return nil
}

// merge puts changes into an object, objects within it alike. null deletes.
func merge(into, changes map[string]any) {
	for key, value := range changes {
		if value == nil {
			delete(into, key)
			continue
		}
		below, ok := value.(map[string]any)
		if !ok {
			into[key] = value
			continue
		}
		old, ok := into[key].(map[string]any)
		if !ok {
			old = map[string]any{}
			into[key] = old
		}
		merge(old, below)
	}
}
