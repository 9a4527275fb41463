package frontend

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

// secureDefaults replace defaults of settings that would not be safe on a
// server of many users: a notebook's HTML must not run Lab's commands
// (threats.md, section 2: CVE-2026-42557 and 40171).
var secureDefaults = map[string]map[string]any{
	"@jupyterlab/apputils-extension:sanitizer": {"allowCommandLinker": false},
}

// setting is the settings of one plugin.
type setting struct {
	id      string
	version string // of the plugin's package
	schema  json.RawMessage
	// head is the setting as JSON up to what the user changed.
	head []byte
	// compiled is made when it is first needed: there are ninety of them.
	compiled func() (*jsonschema.Schema, error)
}

// readSettings reads the schemas of Lab, Notebook and the extensions.
func readSettings(dir fs.FS, extensions []extension, o Options) (map[string]*setting, []string, error) {
	all := map[string]*setting{}
	roots := []string{"lab/schemas"}
	for _, e := range extensions {
		if _, err := fs.Stat(dir, e.dir+"/schemas"); err == nil {
			roots = append(roots, e.dir+"/schemas")
		}
	}
	for _, root := range roots {
		err := fs.WalkDir(dir, root, func(name string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || path.Ext(name) != ".json" {
				return err
			}
			s, err := readSetting(dir, root, name, o)
			if err != nil {
				return fmt.Errorf("cannot read the schema %s: %w", name, err)
			}
			all[s.id] = s
			return nil
		})
		if err != nil {
			return nil, nil, err
		}
	}
	for id := range o.Overrides {
		if all[id] == nil {
			o.Log.Warn("a default is overridden of settings that are not there", "settings", id)
		}
	}
	return all, slices.Sorted(maps.Keys(all)), nil
}

func readSetting(dir fs.FS, root, name string, o Options) (*setting, error) {
	text, err := fs.ReadFile(dir, name)
	if err != nil {
		return nil, err
	}
	var schema map[string]any
	if err := json.Unmarshal(text, &schema); err != nil {
		return nil, err
	}
	parent := path.Dir(name)
	s := &setting{
		id:      strings.TrimPrefix(parent, root+"/") + ":" + strings.TrimSuffix(path.Base(name), ".json"),
		version: "N/A",
	}
	for _, defaults := range []map[string]map[string]any{secureDefaults, o.Overrides} {
		override(schema, defaults[s.id])
	}
	if text, err = json.Marshal(schema); err != nil {
		return nil, err
	}
	s.schema = text
	var about struct{ Version string }
	if text, err := fs.ReadFile(dir, parent+"/package.json.orig"); err == nil && json.Unmarshal(text, &about) == nil && about.Version != "" {
		s.version = about.Version
	}
	s.compiled = sync.OnceValues(func() (*jsonschema.Schema, error) { return compile(s.schema) })
	head, err := json.Marshal(map[string]any{"id": s.id, "schema": s.schema, "version": s.version})
	if err != nil {
		return nil, err
	}
	s.head = bytes.TrimSuffix(head, []byte("}"))
	return s, nil
}

// override replaces defaults in a schema. Objects are merged.
func override(schema, defaults map[string]any) {
	if len(defaults) == 0 {
		return
	}
	properties, _ := schema["properties"].(map[string]any)
	if properties == nil {
		properties = map[string]any{}
		schema["properties"] = properties
	}
	for key, value := range defaults {
		property, _ := properties[key].(map[string]any)
		if property == nil {
			property = map[string]any{}
			properties[key] = property
		}
		old, wasObject := property["default"].(map[string]any)
		if changes, ok := value.(map[string]any); ok && wasObject {
			merge(old, changes)
		} else {
			property["default"] = value
		}
	}
}

// compile makes a validator. A schema has only itself: it may name neither a
// file of the host nor a URL.
func compile(schema json.RawMessage) (*jsonschema.Schema, error) {
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(schema))
	if err != nil {
		return nil, err
	}
	const name = "urn:settings"
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft7)
	c.UseLoader(nothingElse{})
	if err := c.AddResource(name, document); err != nil {
		return nil, err
	}
	return c.Compile(name)
}

// english is for what the validator says.
var english = message.NewPrinter(language.English)

type nothingElse struct{}

// Load implements jsonschema.URLLoader.
func (nothingElse) Load(url string) (any, error) {
	return nil, errors.New("a schema may not name another: " + url)
}

// validate tells what in the settings is not as the schema wants it.
func (f *Frontend) validate(s *setting, values map[string]any) error {
	schema, err := s.compiled()
	if err != nil {
		// The extension's mistake is no reason to lose what the user wrote; Lab
		// validates it, too.
		f.o.Log.Warn("settings are not checked: their schema is not valid", "settings", s.id, "error", err)
		return nil
	}
	err = schema.Validate(values)
	var broken *jsonschema.ValidationError
	if errors.As(err, &broken) {
		for len(broken.Causes) > 0 {
			broken = broken.Causes[0]
		}
		return fmt.Errorf("at /%s: %s", strings.Join(broken.InstanceLocation, "/"), broken.ErrorKind.LocalizedString(english))
	}
	return err
}
