package frontend_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	frontend "kernelgw/frontend-config"
)

func TestLayoutsAreKeptPerUserAndWorkspace(t *testing.T) {
	c := newSite(t, frontend.Options{})
	const body = `{"data": {"layout-restorer:data": {"main": {"dock": null}}}, "metadata": {"id": "default"}}`
	type layout struct {
		Data     map[string]any
		Metadata map[string]string
	}
	var l layout
	c.json(c.want(http.StatusOK, c.ask("GET", "lab/api/workspaces/default", "")), &l)
	if len(l.Data) != 0 || l.Metadata["id"] != "default" {
		t.Errorf("a layout that is not there is %+v", l)
	}
	c.want(http.StatusNoContent, c.ask("PUT", "lab/api/workspaces/default", body))
	c.json(c.want(http.StatusOK, c.ask("GET", "lab/api/workspaces/default/?17", "")), &l)
	if len(l.Data) != 1 || l.Metadata["id"] != "default" || l.Metadata["last_modified"] != "2023-11-14T22:13:20.000000Z" || l.Metadata["created"] == "" {
		t.Errorf("the layout is %+v", l)
	}
	var list struct {
		Workspaces struct {
			IDs    []string
			Values []layout
		}
	}
	for _, path := range []string{"lab/api/workspaces", "lab/api/workspaces/"} {
		c.json(c.want(http.StatusOK, c.ask("GET", path, "")), &list)
		if got := fmt.Sprint(list.Workspaces.IDs, len(list.Workspaces.Values)); got != "[default] 1" {
			t.Errorf("%s: %s", path, got)
		}
	}
	for _, other := range [][]string{{"Test-User", "local:bob"}, {"Test-Workspace", "other"}, {"Test-Workspace", "tea"}, {"Test-Workspace", "team/x"}} {
		a := c.want(http.StatusOK, c.ask("GET", "lab/api/workspaces", "", other...))
		if a.body != `{"workspaces":{"ids":[],"values":[]}}` {
			t.Errorf("%s sees %s", other, a.body)
		}
	}
	c.want(http.StatusNoContent, c.ask("DELETE", "lab/api/workspaces/default", ""))
	c.want(http.StatusNotFound, c.ask("DELETE", "lab/api/workspaces/default", ""))
}

func TestLayoutsOfAnyNameComeBack(t *testing.T) {
	c := newSite(t, frontend.Options{})
	for url, id := range map[string]string{
		"a%20b": "a b", "%C3%BC": "ü", "a%2Fb": "a/b", "x/y": "x/y", "...": "...", "100%25": "100%25", "auto-K": "/auto-K", "q%22'%5C": `q\"'\\`,
	} {
		c.want(http.StatusNoContent, c.ask("PUT", "lab/api/workspaces/"+url, `{"data": {}, "metadata": {"id": "`+id+`"}}`))
		if a := c.ask("GET", "lab/api/workspaces/"+url, ""); !strings.Contains(a.body, `"last_modified"`) {
			t.Errorf("%s did not come back: %s", url, a.body)
		}
	}
}

func TestLayoutsAreNotNamedLikeWaysOut(t *testing.T) {
	c := newSite(t, frontend.Options{})
	for url, id := range map[string]string{"..%2F..": "../..", "a%2F..%2Fb": "a/../b", "%2e%2e%2Fx": "../x", ".%2Fx": "./x", "x%2F%2e%2e": "x/.."} {
		for method, body := range map[string]string{"GET": "", "DELETE": "", "PUT": `{"data": {}, "metadata": {"id": "` + id + `"}}`} {
			c.want(http.StatusBadRequest, c.ask(method, "lab/api/workspaces/"+url, body))
		}
	}
	if a := c.want(http.StatusOK, c.ask("GET", "lab/api/workspaces", "")); a.body != `{"workspaces":{"ids":[],"values":[]}}` {
		t.Errorf("kept: %s", a.body)
	}
}

func TestLayoutsThatAreNotValidAreRefused(t *testing.T) {
	c := newSite(t, frontend.Options{})
	for name, body := range map[string]string{
		"no body": "", "no JSON": "{", "array": "[]", "null": "null", "no data": `{"metadata": {"id": "x"}}`, "no metadata": `{"data": {}}`,
		"data is an array": `{"data": [], "metadata": {"id": "x"}}`, "data is null": `{"data": null, "metadata": {"id": "x"}}`,
		"another id": `{"data": {}, "metadata": {"id": "y"}}`, "no id": `{"data": {}, "metadata": {}}`, "id is a number": `{"data": {}, "metadata": {"id": 1}}`,
		"bad escape": `{"data": {}, "metadata": {"id": "%zz"}}`, "deep": `{"data": {"a": ` + strings.Repeat("[", 20_000) + `}, "metadata": {"id": "x"}}`,
		"invalid UTF-8": "{\"data\": {}, \"metadata\": {\"id\": \"x\xff\"}}",
	} {
		if a := c.ask("PUT", "lab/api/workspaces/x", body); a.StatusCode != http.StatusBadRequest || strings.Contains(a.body, "Go ") {
			t.Errorf("%s: %d %s", name, a.StatusCode, a.body)
		}
	}
	for _, name := range []string{"", "%00", "a%0Ab", "%FF", strings.Repeat("x", 101), strings.Repeat("x", 4096)} {
		c.want(http.StatusBadRequest, c.ask("PUT", "lab/api/workspaces/"+name, `{"data": {}, "metadata": {"id": "x"}}`))
		c.want(http.StatusBadRequest, c.ask("DELETE", "lab/api/workspaces/"+name, ""))
	}
	c.want(http.StatusRequestEntityTooLarge, c.ask("PUT", "lab/api/workspaces/x", strings.Repeat(" ", 256<<10+1)))
}

func TestLayoutsAreBounded(t *testing.T) {
	c := newSite(t, frontend.Options{})
	write := func(name string) answer {
		return c.ask("PUT", "lab/api/workspaces/"+name, `{"data": {}, "metadata": {"id": "`+name+`"}}`)
	}
	for i := range 50 {
		c.want(http.StatusNoContent, write(fmt.Sprint("n", i)))
	}
	c.want(http.StatusForbidden, write("one-more"))
	c.want(http.StatusNoContent, write("n7")) // is there already
	c.want(http.StatusNoContent, c.ask("DELETE", "lab/api/workspaces/n8", ""))
	c.want(http.StatusNoContent, write("one-more"))
}

// What cannot be read, of another version perhaps, hides nothing else.
func TestBrokenLayoutIsLikeNone(t *testing.T) {
	d := newDocuments()
	c := newSite(t, frontend.Options{Documents: d})
	d.kept[key("local:alice", "layouts/team/broken")] = []byte("{")
	d.kept[key("local:alice", "layouts/team/empty")] = nil
	c.want(http.StatusNoContent, c.ask("PUT", "lab/api/workspaces/good", `{"data": {}, "metadata": {"id": "good"}}`))
	if a := c.want(http.StatusOK, c.ask("GET", "lab/api/workspaces", "")); !strings.Contains(a.body, `"ids":["good"]`) {
		t.Errorf("list is %s", a.body)
	}
	if a := c.want(http.StatusOK, c.ask("GET", "lab/api/workspaces/broken", "")); a.body != `{"data":{},"metadata":{"id":"broken"}}` {
		t.Errorf("broken layout is %s", a.body)
	}
}

func TestConfigSectionsMergeAndDelete(t *testing.T) {
	c := newSite(t, frontend.Options{})
	if a := c.want(http.StatusOK, c.ask("GET", "api/config/notebook", "")); a.body != "{}" {
		t.Errorf("an unknown section is %s", a.body)
	}
	c.want(http.StatusNoContent, c.ask("PUT", "api/config/notebook", `{"a": {"b": 1, "c": 2}, "d": [1]}`))
	if a := c.want(http.StatusOK, c.ask("PATCH", "api/config/notebook", `{"a": {"b": null, "e": {"f": null}}, "d": null, "g": "h"}`)); a.body != `{"a":{"c":2,"e":{}},"g":"h"}` {
		t.Errorf("merged: %s", a.body)
	}
	if a := c.ask("GET", "api/config/notebook/", ""); a.body != `{"a":{"c":2,"e":{}},"g":"h"}` {
		t.Errorf("kept: %s", a.body)
	}
	if a := c.ask("GET", "api/config/notebook", "", "Test-User", "local:bob"); a.body != "{}" {
		t.Errorf("another user reads %s", a.body)
	}
	for _, body := range []string{"", "[]", "null", "{", `"x"`, "{\"\xff\": 1}"} {
		c.want(http.StatusBadRequest, c.ask("PUT", "api/config/notebook", body))
		c.want(http.StatusBadRequest, c.ask("PATCH", "api/config/notebook", body))
	}
	for _, name := range []string{"a%2Fb", "..%2Fsettings", "%00", strings.Repeat("x", 101), "a%20b"} {
		c.want(http.StatusNotFound, c.ask("GET", "api/config/"+name, ""))
		c.want(http.StatusNotFound, c.ask("PUT", "api/config/"+name, "{}"))
	}
	half := `{"%s": "` + strings.Repeat("x", 600_000) + `"}`
	c.want(http.StatusNoContent, c.ask("PUT", "api/config/large", fmt.Sprintf(half, "a")))
	c.want(http.StatusRequestEntityTooLarge, c.ask("PATCH", "api/config/large", fmt.Sprintf(half, "b")))
}

func TestConfigPatchesAtOnceAllWin(t *testing.T) {
	c := newSite(t, frontend.Options{})
	var group sync.WaitGroup
	for i := range 20 {
		group.Go(func() { c.ask("PATCH", "api/config/x", fmt.Sprintf(`{"k%d": %d}`, i, i)) })
	}
	group.Wait()
	var values map[string]int
	c.json(c.ask("GET", "api/config/x", ""), &values)
	if len(values) != 20 {
		t.Errorf("%d of 20 patches are there", len(values))
	}
}

// Documents do not count for the quota: their number must end.
func TestSectionsAreSoMany(t *testing.T) {
	c := newSite(t, frontend.Options{})
	for i := range 100 {
		c.want(http.StatusNoContent, c.ask("PUT", fmt.Sprint("api/config/s", i), "{}"))
	}
	c.want(http.StatusForbidden, c.ask("PUT", "api/config/more", "{}"))
	c.want(http.StatusForbidden, c.ask("PATCH", "api/config/more", "{}"))
	c.want(http.StatusNoContent, c.ask("PUT", "api/config/s1", `{"a": 1}`))
	c.want(http.StatusNoContent, c.ask("PUT", "api/config/s1", "{}", "Test-User", "local:bob"))
}
