package image

import (
	"testing"
	"testing/fstest"
)

func TestFindUser(t *testing.T) {
	fsys := fstest.MapFS{
		"etc/passwd": {Data: []byte("root:x:0:0:root:/root:/bin/sh\nbroken\nann:x:1000:1001::/home/ann:/bin/sh\nsys:x:999:999::/nonexistent:/bin/false\nneg:x:-5:1::/:/x\ndefault:x:1001:0::/opt/app:/bin/sh\n")},
		"etc/group":  {Data: []byte("root:x:0:\nstaff:x:50:\n")},
	}
	ann := User{"ann", 1000, 1001, "/home/ann"}
	for _, tc := range []struct {
		config string
		want   User
		ok     bool
	}{
		{"", ann, true},
		{"0", ann, true},
		{"root", ann, true},
		{"root:staff", ann, true},
		{"0:0", ann, true},
		{"ann", ann, true},
		{"1000", ann, true},
		{"1000:50", User{"ann", 1000, 50, "/home/ann"}, true},
		{"ann:staff", User{"ann", 1000, 50, "/home/ann"}, true},
		{"1234", User{"jovyan", 1234, 1234, "/home/jovyan"}, true},
		{"sys", User{"sys", 999, 999, "/home/jovyan"}, true},
		{"1001", User{"default", 1001, 1001, "/opt/app"}, true}, // OpenShift's convention
		{"default", User{"default", 1001, 1001, "/opt/app"}, true},
		{"1001:0", User{"default", 1001, 1001, "/opt/app"}, true},
		{"ann:root", User{"ann", 1000, 1000, "/home/ann"}, true},
		{"1234:0", User{"jovyan", 1234, 1234, "/home/jovyan"}, true},
		{"nobodyknows", User{}, false},
		{"ann:nogroup", User{}, false},
		{"-1", User{}, false},
		{" 0", User{}, false},
		{"+0", User{}, false},
		{"4294967296", User{}, false},
		{"0x0", User{}, false},
	} {
		got, err := findUser(fsys, tc.config)
		if got != tc.want || (err == nil) != tc.ok {
			t.Errorf("findUser(%q) = %+v, %v; want %+v, ok %v", tc.config, got, err, tc.want, tc.ok)
		}
	}
	groupless := fstest.MapFS{"etc/passwd": {Data: []byte("app:x:1000:0::/app:/bin/sh\n")}}
	if got, err := findUser(groupless, ""); err != nil || got != (User{"app", 1000, 1000, "/app"}) {
		t.Errorf("for root, where user 1000 is of the group root: %+v, %v", got, err)
	}
	if got, err := findUser(fstest.MapFS{}, ""); err != nil || got != (User{"jovyan", 1000, 1000, "/home/jovyan"}) {
		t.Errorf("without /etc/passwd: %+v, %v", got, err)
	}
}
