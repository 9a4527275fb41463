package frontend_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	frontend "kernelgw/frontend-config"
)

type setting struct {
	ID     string
	Schema struct {
		Properties map[string]struct{ Default any }
	}
	Version  string
	Raw      *string
	Settings map[string]any
	Modified *string `json:"last_modified"`
	Created  *string
}

func put(raw string) string {
	body, err := json.Marshal(map[string]string{"raw": raw})
	if err != nil {
		panic(err)
	}
	return string(body)
}

const themes = "lab/api/settings/@jupyterlab/apputils-extension:themes"

func TestAllSettingsAreListedWithTheirSchemas(t *testing.T) {
	c := newSite(t, frontend.Options{})
	var list struct{ Settings []setting }
	c.json(c.want(http.StatusOK, c.ask("GET", "lab/api/settings", "")), &list)
	byID := map[string]setting{}
	for _, s := range list.Settings {
		byID[s.ID] = s
		if s.Raw == nil || *s.Raw != "{}" || s.Settings == nil || s.Schema.Properties == nil && s.ID == "" || s.Modified != nil {
			t.Errorf("%s: %+v", s.ID, s)
		}
	}
	for id, version := range map[string]string{
		"@jupyterlab/apputils-extension:themes": "4.6.6", "@jupyter-notebook/tree-extension:widget": "7.6.5",
		"@jupyter-widgets/jupyterlab-manager:plugin": "5.0.16", "@jupyter-notebook/lab-extension:launch-tree": "7.6.5",
	} {
		if byID[id].Version != version {
			t.Errorf("%s has version %q, want %q", id, byID[id].Version, version)
		}
	}
	var ids struct{ Settings []map[string]any }
	c.json(c.want(http.StatusOK, c.ask("GET", "lab/api/settings?ids_only=true", "")), &ids)
	if len(ids.Settings) != len(list.Settings) || len(ids.Settings) < 89 || len(ids.Settings[0]) != 1 {
		t.Errorf("%d ids, %d settings", len(ids.Settings), len(list.Settings))
	}
	if a := c.ask("GET", "lab/api/settings", "", "Accept-Encoding", "gzip"); a.Header.Get("Content-Encoding") != "gzip" {
		t.Error("the list is not compressed")
	}
	for _, path := range []string{"lab/api/settings/", "lab/api/settings/?1795502306591"} {
		c.want(http.StatusOK, c.ask("GET", path, ""))
	}
}

func TestSettingsAreKeptAsTheUserWroteThem(t *testing.T) {
	c := newSite(t, frontend.Options{})
	const raw = "{\n    // The theme.\n    \"theme\": \"JupyterLab Dark\", /* mine */\n}"
	c.want(http.StatusNoContent, c.ask("PUT", themes, put(raw)))
	var s setting
	c.json(c.want(http.StatusOK, c.ask("GET", themes+"?1795502306591", "")), &s)
	if *s.Raw != raw || s.Settings["theme"] != "JupyterLab Dark" || s.Modified == nil || *s.Modified != "2023-11-14T22:13:20.000000Z" || s.Created == nil {
		t.Errorf("settings are %+v, raw %q", s, *s.Raw)
	}
	var list struct{ Settings []setting }
	c.json(c.ask("GET", "lab/api/settings", ""), &list)
	found := false
	for _, s := range list.Settings {
		found = found || s.ID == "@jupyterlab/apputils-extension:themes" && *s.Raw == raw
	}
	if !found {
		t.Error("the list does not have what was written")
	}
	// Another workspace of the same user has them, too; another user has not.
	c.json(c.ask("GET", themes, "", "Test-Workspace", "other"), &s)
	if *s.Raw != raw {
		t.Error("settings are per workspace")
	}
	c.json(c.ask("GET", themes, "", "Test-User", "local:bob"), &s)
	if *s.Raw != "{}" {
		t.Error("settings of a user are another's")
	}
}

func TestSettingsThatAreNotValidAreRefused(t *testing.T) {
	c := newSite(t, frontend.Options{})
	for name, body := range map[string]string{
		"no body":             "",
		"no JSON":             "{",
		"no raw":              `{"theme": "x"}`,
		"raw is null":         `{"raw": null}`,
		"raw is an object":    `{"raw": {}}`,
		"raw is no JSON":      put("{theme"),
		"raw is empty":        put(""),
		"raw is an array":     put("[]"),
		"raw is null text":    put("null"),
		"two values":          put("{} {}"),
		"open comment":        put("{} /*"),
		"wrong type":          put(`{"theme": 1}`),
		"unknown key":         put(`{"no-such-key": 1}`),
		"invalid UTF-8":       "{\"raw\": \"{\xff}\"}",
		"NUL":                 put("{\x00}"),
		"deep array":          put(strings.Repeat("[", 100_000)),
		"deep object":         put(strings.Repeat(`{"a":`, 20_000)),
		"deep after a string": put(`{"\\":"` + `\"", "b": ` + strings.Repeat("[", 100_000)),
		"deep in a comment":   put("/* */" + strings.Repeat("[", 100_000)),
		"deep body":           strings.Repeat("[", 100_000),
	} {
		a := c.want(http.StatusBadRequest, c.ask("PUT", themes, body))
		var said struct{ Message string }
		c.json(a, &said)
		if said.Message == "" || strings.Contains(said.Message, "Go ") || strings.Contains(said.Message, "struct") {
			t.Errorf("%s: message %q", name, said.Message)
		}
	}
	c.want(http.StatusRequestEntityTooLarge, c.ask("PUT", themes, put(`{"theme": "`+strings.Repeat("x", 1<<20)+`"}`)))
	c.want(http.StatusRequestEntityTooLarge, c.ask("PUT", themes, put(`{} //`+strings.Repeat("x", 128<<10)+"\n")))
	for _, id := range []string{"@jupyterlab/apputils-extension:nothing", "nothing", "../../package.json", "@jupyterlab/apputils-extension/themes.json", "%2e%2e", "x%00"} {
		c.want(http.StatusNotFound, c.ask("PUT", "lab/api/settings/"+id, put("{}")))
		c.want(http.StatusNotFound, c.ask("GET", "lab/api/settings/"+id, ""))
	}
	var s setting
	c.json(c.ask("GET", themes, ""), &s)
	if *s.Raw != "{}" {
		t.Errorf("something refused was kept: %q", *s.Raw)
	}
}

func TestRefusalSaysWhereTheMistakeIs(t *testing.T) {
	c := newSite(t, frontend.Options{})
	for raw, want := range map[string]string{
		"{\n  \"theme\": ,\n}":                "line 2",
		`{"theme": true}`:                     "at /theme",
		`{"overrides": {"x": {"y": [1, 2]}}}`: "/overrides",
	} {
		if a := c.want(http.StatusBadRequest, c.ask("PUT", themes, put(raw))); !strings.Contains(a.body, want) {
			t.Errorf("%s: %s does not say %q", raw, a.body, want)
		}
	}
}

// Every plugin's defaults are valid settings: what Lab's editor may write is
// taken.
func TestDefaultsOfEveryPluginAreValid(t *testing.T) {
	c := newSite(t, frontend.Options{})
	var list struct {
		Settings []struct {
			ID     string
			Schema struct {
				Properties map[string]struct{ Default json.RawMessage }
			}
		}
	}
	c.json(c.ask("GET", "lab/api/settings", ""), &list)
	for _, s := range list.Settings {
		values := map[string]json.RawMessage{}
		for key, property := range s.Schema.Properties {
			if property.Default != nil {
				values[key] = property.Default
			}
		}
		raw, err := json.Marshal(values)
		if err != nil {
			t.Fatal(err)
		}
		if a := c.ask("PUT", "lab/api/settings/"+s.ID, put(string(raw))); a.StatusCode != http.StatusNoContent {
			t.Errorf("%s: %d %s", s.ID, a.StatusCode, a.body)
		}
	}
}

func TestCommandLinkerIsOffUnlessTheOperatorWantsIt(t *testing.T) {
	const sanitizer = "lab/api/settings/@jupyterlab/apputils-extension:sanitizer"
	var s setting
	c := newSite(t, frontend.Options{})
	c.json(c.ask("GET", sanitizer, ""), &s)
	if s.Schema.Properties["allowCommandLinker"].Default != false {
		t.Errorf("allowCommandLinker is %v", s.Schema.Properties["allowCommandLinker"].Default)
	}
	var list struct{ Settings []setting }
	c.json(c.ask("GET", "lab/api/settings", ""), &list)
	for _, s := range list.Settings {
		if s.ID == "@jupyterlab/apputils-extension:sanitizer" && s.Schema.Properties["allowCommandLinker"].Default != false {
			t.Error("the list has another default")
		}
	}
	c = newSite(t, frontend.Options{Overrides: map[string]map[string]any{
		"@jupyterlab/apputils-extension:sanitizer": {"allowCommandLinker": true, "allowedSchemes": []string{"https"}},
	}})
	c.json(c.ask("GET", sanitizer, ""), &s)
	if s.Schema.Properties["allowCommandLinker"].Default != true || fmt.Sprint(s.Schema.Properties["allowedSchemes"].Default) != "[https]" {
		t.Errorf("the operator's defaults are %v", s.Schema.Properties)
	}
}

func TestOverridesOfObjectsAreMerged(t *testing.T) {
	dir := writeTree(t, map[string]string{
		"lab/schemas/@x/y/object.json": `{"type": "object", "properties": {"o": {"type": "object", "default": {"a": {"b": 1, "c": 2}, "d": 3}}}}`,
		"lab/schemas/@x/y/none.json":   `{"type": "object"}`,
	})
	c := newSite(t, frontend.Options{Dir: dir, Overrides: map[string]map[string]any{
		"@x/y:object": {"o": map[string]any{"a": map[string]any{"b": 9}}, "new": "n"},
		"@x/y:none":   {"new": 1},
		"@x/y:gone":   {"new": 1},
	}})
	var s setting
	c.json(c.ask("GET", "lab/api/settings/@x/y:object", ""), &s)
	if got := fmt.Sprint(s.Schema.Properties["o"].Default, s.Schema.Properties["new"].Default); got != "map[a:map[b:9 c:2] d:3]n" {
		t.Errorf("defaults are %s", got)
	}
	c.json(c.ask("GET", "lab/api/settings/@x/y:none", ""), &s)
	if s.Schema.Properties["new"].Default != 1.0 {
		t.Errorf("defaults are %v", s.Schema.Properties)
	}
}

// After an update of Lab a setting may be one no more. Lab must start.
func TestStoredSettingsThatAreNotValidAnyMoreAreLeftOut(t *testing.T) {
	d := newDocuments()
	c := newSite(t, frontend.Options{Documents: d})
	for _, text := range []string{`{"theme": 7}`, `{"gone": 1}`, "{", "", "\xff\xfe", strings.Repeat("[", 1<<20)} {
		d.kept[key("local:alice", "settings/@jupyterlab/apputils-extension:themes")] = []byte(text)
		d.kept[key("local:alice", "settings/@gone/extension:plugin")] = []byte("{}")
		var s setting
		c.json(c.want(http.StatusOK, c.ask("GET", themes, "")), &s)
		if *s.Raw != "{}" || len(s.Settings) > 0 {
			t.Errorf("%.20q: %+v", text, s)
		}
		c.want(http.StatusOK, c.ask("GET", "lab/api/settings", ""))
	}
}

// A schema of an extension names files of the host and other servers.
func TestSchemaCannotReachOutside(t *testing.T) {
	dir := writeTree(t, map[string]string{
		"lab/schemas/@x/y/file.json": `{"type": "object", "properties": {"p": {"$ref": "file:///etc/passwd"}}}`,
		"lab/schemas/@x/y/http.json": `{"type": "object", "properties": {"p": {"$ref": "http://127.0.0.1:1/x.json"}}}`,
		"lab/schemas/@x/y/bad.json":  `{"type": "object", "properties": {"p": {"pattern": "(?=a)"}}}`,
	})
	c := newSite(t, frontend.Options{Dir: dir})
	for _, name := range []string{"file", "http", "bad"} {
		// The settings are taken unchecked, because the schema is of no use.
		c.want(http.StatusNoContent, c.ask("PUT", "lab/api/settings/@x/y:"+name, put(`{"p": 1}`)))
	}
}

func TestStorageThatFailsIsNeverTakenForNoSettings(t *testing.T) {
	d := newDocuments()
	c := newSite(t, frontend.Options{Documents: d})
	d.breakWith(errors.New("no storage at s3://secret-bucket"))
	for request, body := range map[string]string{
		"GET lab/api/settings": "", "GET " + themes: "", "PUT " + themes: put("{}"),
		"GET lab/api/workspaces": "", "GET lab/api/workspaces/default": "", "DELETE lab/api/workspaces/default": "",
		"PUT lab/api/workspaces/default": `{"data": {}, "metadata": {"id": "default"}}`,
		"GET api/config/x":               "", "PUT api/config/x": "{}", "PATCH api/config/x": "{}",
	} {
		method, path, _ := strings.Cut(request, " ")
		a := c.want(http.StatusServiceUnavailable, c.ask(method, path, body))
		if strings.Contains(a.body, "bucket") || !strings.Contains(a.body, "try again") {
			t.Errorf("%s: %s", request, a.body)
		}
	}
	// Pages and what is the same for everyone need no storage.
	c.want(http.StatusOK, c.ask("GET", "lab", ""))
	c.want(http.StatusOK, c.ask("GET", "lab/api/translations/default", ""))
}
