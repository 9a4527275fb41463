package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"time"
)

// mergedDirs are the symlinks of a merged /usr, made before any package is
// unpacked (Debian bookworm has no other layout).
var mergedDirs = []string{"bin", "sbin", "lib", "lib64"}

// links stand for what maintainer scripts would have made; they are left out
// where the package that owns the target is not in the image.
var links = map[string]string{
	"usr/bin/awk":          "mawk",
	"usr/bin/sh":           "dash",
	"usr/bin/which":        "which.debianutils",
	"usr/bin/pager":        "less",
	"usr/bin/python":       "python3",
	"etc/localtime":        "/usr/share/zoneinfo/Etc/UTC",
	"etc/os-release":       "../usr/lib/os-release",
	"var/run":              "/run",
	"var/lock":             "/run/lock",
	"etc/mtab":             "../proc/self/mounts",
	"usr/lib/ssl/cert.pem": "/etc/ssl/certs/ca-certificates.crt",
}

// mergeDebs unpacks the packages into one root filesystem at dir. Maintainer
// scripts are not run.
func mergeDebs(ctx context.Context, dir string, a *apt, debs []deb, p *Progress) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, d := range mergedDirs {
		if err := root.MkdirAll(path.Join("usr", d), 0o755); err != nil {
			return err
		}
		if err := root.Symlink("usr/"+d, d); err != nil {
			return err
		}
	}
	u := newUnpacker(root)
	u.chown, u.keepLinks = false, true
	defer u.close()
	for i, d := range debs {
		if err := mergeDeb(ctx, u, a.path(d)); err != nil {
			return fmt.Errorf("cannot unpack %s: %w", d.file, err)
		}
		p.Tick("unpacking packages: %d of %d, %d files", i+1, len(debs), u.entries)
	}
	p.Say("unpacked %d packages: %d files, %s", len(debs), u.entries, mb(u.bytes))
	return nil
}

func mergeDeb(ctx context.Context, u *unpacker, file string) error {
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", file)
	cmd.WaitDelay = 5 * time.Second
	tail := &tailBuffer{}
	cmd.Stderr = tail
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	unpackErr := u.unpack(ctx, out)
	if unpackErr == nil {
		_, unpackErr = io.Copy(io.Discard, out)
	} else {
		out.Close() // dpkg-deb ends on the broken pipe
	}
	waitErr := cmd.Wait()
	if unpackErr != nil {
		return unpackErr
	}
	if waitErr != nil {
		return fmt.Errorf("dpkg-deb: %w: %s", waitErr, tail)
	}
	return nil
}

// configure does what is needed of the work of maintainer scripts, and makes
// the user that kernels run as.
func configure(dir, triple string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, d := range []string{
		"dev", "proc", "sys", "run", "run/lock", "run/kernelgw", "etc", "tmp", "var/tmp", "root",
		"home/jovyan", mplDir, "mnt", "opt", "srv", "usr/local/bin", "usr/local/lib", "usr/local/share",
	} {
		real, err := resolve(root, d, true)
		if err != nil {
			return err
		}
		if err := root.MkdirAll(real, 0o755); err != nil {
			return err
		}
	}
	for name, mode := range map[string]fs.FileMode{
		"tmp": 0o777 | fs.ModeSticky, "var/tmp": 0o777 | fs.ModeSticky, mplDir: 0o777 | fs.ModeSticky,
		"root": 0o700, "home/jovyan": 0o700,
	} {
		if err := root.Chmod(name, mode); err != nil {
			return err
		}
	}
	if err := makeLinks(root); err != nil {
		return err
	}
	if err := makeAccounts(root); err != nil {
		return err
	}
	for name, text := range map[string]string{
		"etc/hostname":      "kernel\n",
		"etc/hosts":         "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n",
		"etc/resolv.conf":   "",
		"etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\nprotocols: files\nservices: files\n",
		"etc/timezone":      "Etc/UTC\n",
		"etc/fstab":         "",
		"etc/machine-id":    "",
	} {
		if err := root.WriteFile(name, []byte(text), 0o644); err != nil {
			return err
		}
	}
	if err := writeLoaderCache(root, triple); err != nil {
		return err
	}
	return makeCertificates(root)
}

func makeLinks(root *os.Root) error {
	for _, name := range slices.Sorted(maps.Keys(links)) {
		target := links[name]
		if _, err := root.Lstat(name); err == nil {
			continue
		}
		inside := target
		if !path.IsAbs(inside) {
			inside = path.Join(path.Dir(name), inside)
		}
		if real, err := resolve(root, inside, true); err == nil && strings.HasPrefix(inside, "usr/") {
			if _, err := root.Lstat(real); err != nil {
				continue
			}
		}
		if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
			return err
		}
		if err := root.Symlink(target, name); err != nil {
			return err
		}
	}
	return nil
}

// makeAccounts takes Debian's fixed accounts from base-passwd and adds ours.
func makeAccounts(root *os.Root) error {
	for name, ours := range map[string]string{
		"passwd": fmt.Sprintf("%s:*:%d:%d::%s:/bin/bash\n", fallbackName, fallbackID, fallbackID, fallbackHome),
		"group":  fmt.Sprintf("%s:*:%d:\n", fallbackName, fallbackID),
	} {
		master, err := root.ReadFile("usr/share/base-passwd/" + name + ".master")
		if err != nil {
			return fmt.Errorf("cannot make /etc/%s: package base-passwd is needed: %w", name, err)
		}
		if err := root.WriteFile("etc/"+name, append(master, ours...), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// makeCertificates does the work of update-ca-certificates.
func makeCertificates(root *os.Root) error {
	const from = "usr/share/ca-certificates/mozilla"
	entries, err := fs.ReadDir(root.FS(), from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var bundle bytes.Buffer
	for _, e := range entries { // sorted by name
		raw, err := root.ReadFile(path.Join(from, e.Name()))
		if err != nil {
			return err
		}
		bundle.Write(raw)
	}
	if err := root.MkdirAll("etc/ssl/certs", 0o755); err != nil {
		return err
	}
	return root.WriteFile("etc/ssl/certs/ca-certificates.crt", bundle.Bytes(), 0o644)
}
