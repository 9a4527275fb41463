package image

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
)

// Whom kernels run as in an image that names nobody, or root.
const (
	fallbackID   = 1000
	fallbackName = "jovyan"
	fallbackHome = "/home/jovyan"
)

// User is who kernels run as inside an image.
type User struct {
	Name     string
	UID, GID uint32
	Home     string // absolute path inside the image; may not exist there
}

type passwdEntry struct {
	name     string
	uid, gid uint32
	home     string
}

// findUser interprets an image config's User ("name", "uid", each with an
// optional ":group") against the image's own passwd and group files. Root, or
// nobody named, becomes user id 1000, and the group root the one that has the
// user's number: code from strangers does not run as root, whatever the image
// says. (That images give their user the group root is common: OpenShift starts
// them as any user id of that group.)
func findUser(fsys fs.FS, config string) (User, error) {
	user, err := namedUser(fsys, config)
	if err == nil && user.GID == 0 {
		user.GID = user.UID
	}
	return user, err
}

func namedUser(fsys fs.FS, config string) (User, error) {
	users := readPasswd(fsys)
	who, group, hasGroup := strings.Cut(config, ":")
	var user User
	switch id, err := strconv.ParseUint(who, 10, 31); {
	case who == "":
	case err == nil:
		user = userByID(users, uint32(id))
	default:
		i := indexUser(users, func(u passwdEntry) bool { return u.name == who })
		if i < 0 {
			return User{}, fmt.Errorf("its user %q is not in its /etc/passwd", who)
		}
		user = users[i].user()
	}
	if user.UID == 0 {
		return userByID(users, fallbackID), nil
	}
	if hasGroup && group != "" {
		gid, err := findGroup(fsys, group)
		if err != nil {
			return User{}, err
		}
		user.GID = gid
	}
	return user, nil
}

func userByID(users []passwdEntry, id uint32) User {
	if i := indexUser(users, func(u passwdEntry) bool { return u.uid == id }); i >= 0 {
		return users[i].user()
	}
	return User{Name: fallbackName, UID: id, GID: id, Home: fallbackHome}
}

func indexUser(users []passwdEntry, match func(passwdEntry) bool) int {
	for i, u := range users {
		if match(u) {
			return i
		}
	}
	return -1
}

func (p passwdEntry) user() User {
	home := p.home
	if !strings.HasPrefix(home, "/") || home == "/" || home == "/nonexistent" {
		home = fallbackHome
	}
	return User{Name: p.name, UID: p.uid, GID: p.gid, Home: home}
}

func readPasswd(fsys fs.FS) []passwdEntry {
	var users []passwdEntry
	for _, f := range readColonFile(fsys, "etc/passwd", 7) {
		uid, err1 := strconv.ParseUint(f[2], 10, 31)
		gid, err2 := strconv.ParseUint(f[3], 10, 31)
		if err1 == nil && err2 == nil {
			users = append(users, passwdEntry{f[0], uint32(uid), uint32(gid), f[5]})
		}
	}
	return users
}

func findGroup(fsys fs.FS, group string) (uint32, error) {
	if id, err := strconv.ParseUint(group, 10, 31); err == nil {
		return uint32(id), nil
	}
	for _, f := range readColonFile(fsys, "etc/group", 4) {
		if f[0] == group {
			if id, err := strconv.ParseUint(f[2], 10, 31); err == nil {
				return uint32(id), nil
			}
		}
	}
	return 0, fmt.Errorf("its group %q is not in its /etc/group", group)
}

// readColonFile returns the lines of a passwd-like file that have at least n
// fields. A missing file has none.
func readColonFile(fsys fs.FS, file string, n int) [][]string {
	f, err := fsys.Open(file)
	if err != nil {
		return nil
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, 1<<20))
	if err != nil {
		return nil
	}
	var lines [][]string
	for sc := bufio.NewScanner(bytes.NewReader(raw)); sc.Scan(); {
		if fields := strings.Split(sc.Text(), ":"); len(fields) >= n {
			lines = append(lines, fields)
		}
	}
	return lines
}
