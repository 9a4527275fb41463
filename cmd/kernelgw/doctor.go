package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"kernelgw/contents/s3store"
	"kernelgw/sandboxes/containerd"
	"kernelgw/sandboxes/gvisor"
	"kernelgw/sandboxes/process"
)

// DoctorCmd tells what this host can do.
type DoctorCmd struct {
	JSON   bool `help:"Print JSON."`
	Trial  bool `help:"Start a kernel in a sandbox, as serve would."`
	Leaks  bool `help:"List what sandboxes have left on this host that are no more, and nothing else."`
	Repair bool `help:"With leaks: remove it."`
	Config
}

// finding is one thing that the doctor looked at.
type finding struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
}

// diagnosis is all that the doctor found.
type diagnosis struct {
	Findings []finding `json:"findings"`
	// Production is what a host for several tenants should be like.
	Production []finding `json:"production"`
	Driver     string    `json:"driver"` // that serve would choose; "" when none would do
	Why        string    `json:"why"`
}

// Run looks and prints. It fails when the configured driver cannot work here.
func (c *DoctorCmd) Run(env *environment) error {
	if err := c.complete(env); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(env.ctx, 5*time.Minute)
	defer cancel()
	if c.Leaks {
		return c.leaks(ctx, env)
	}
	fmt.Fprintln(env.stderr, "looking; a trial sandbox takes a few seconds ...")
	d := diagnose(ctx, &c.Config)
	if c.Trial {
		d.Findings = append(d.Findings, trial(ctx, c.Config))
	}
	if c.JSON {
		encoder := json.NewEncoder(env.stdout)
		encoder.SetIndent("", "  ")
		if err := encoder.Encode(d); err != nil {
			return fmt.Errorf("cannot print the diagnosis: %w", err)
		}
	} else {
		d.print(env.stdout)
	}
	if d.Driver == "" {
		return fmt.Errorf("no driver can be used: %s", d.Why)
	}
	return nil
}

// leaks lists what is left behind, and removes it if asked to. Something that is
// left, and stays, is an error, so that scripts notice.
func (c *DoctorCmd) leaks(ctx context.Context, env *environment) error {
	list, err := findLeaks(ctx, &c.Config, c.Repair)
	if err != nil {
		return err
	}
	if c.JSON {
		encoder := json.NewEncoder(env.stdout)
		encoder.SetIndent("", "  ")
		err = encoder.Encode(list)
	} else {
		printLeaks(env.stdout, list, c.Repair)
	}
	if err == nil && len(list) > 0 && !c.Repair {
		err = fmt.Errorf("%d things are left behind; kernelgw doctor --leaks --repair removes them", len(list))
	}
	return err
}

func (d diagnosis) print(w io.Writer) {
	printFindings(w, d.Findings)
	fmt.Fprintln(w, "\nfor production, with several tenants:")
	printFindings(w, d.Production)
	if d.Driver == "" {
		fmt.Fprintf(w, "\nserve would refuse to start: %s\n", d.Why)
		return
	}
	fmt.Fprintf(w, "\nserve would use driver %s: %s\n", d.Driver, d.Why)
}

func printFindings(w io.Writer, list []finding) {
	for _, f := range list {
		mark := "no "
		if f.OK {
			mark = "yes"
		}
		fmt.Fprintf(w, "%s  %-20s %s\n", mark, f.Name, f.Detail)
	}
}

func diagnose(ctx context.Context, c *Config) diagnosis {
	gv := gvisor.Probe(ctx, c.Runsc)
	managers := containerd.Probe(ctx, c.Containerd)
	d := diagnosis{Findings: []finding{{"user", true, user()}, userNamespaces(), cgroups()}}
	d.add(virtualMachines()...)
	d.add(virtualMachineManagers(managers)...)
	d.add(
		sandboxNetwork(ctx), diskSpace(c.DataDir), fileStorage(ctx, c), browserFiles(c),
		finding{"driver gvisor", gv.Usable, gv.Detail},
		agentBinary(c.Agent), defaultImage(ctx, c),
		finding{"driver process", true, "always works, without any isolation: for trusted code, only when asked for by name"},
	)
	d.Production = production(os.DirFS("/"))
	d.Driver, d.Why = chooseDriver(c, gv, managers)
	return d
}

func (d *diagnosis) add(found ...finding) { d.Findings = append(d.Findings, found...) }

// chooseDriver picks the driver for a configuration. What isolates nothing is
// never picked by itself.
func chooseDriver(c *Config, gv gvisor.Report, managers containerd.Report) (name, why string) {
	switch {
	case c.Driver == process.Name:
		return process.Name, "it was asked for by name; kernels are not isolated"
	case c.Driver == containerd.Name && managers.Version == "":
		return "", "containerd gives " + managers.Problem
	case c.Driver == containerd.Name:
		return containerd.Name, "it was asked for by name; runtime " + cmp.Or(c.Runtime, "is not set: --runtime=kata-qemu-runtime-rs")
	case gv.Usable && c.Driver == gvisor.Name:
		return gvisor.Name, "it was asked for by name, and works"
	case gv.Usable:
		return gvisor.Name, "gVisor works here; it needs no KVM and no daemon"
	default:
		return "", "gVisor does not work here (" + gv.Detail + "); for trusted code alone, --driver process works without isolation"
	}
}

func user() string {
	if os.Getuid() == 0 {
		return "root: sandboxes get control groups"
	}
	return fmt.Sprintf("uid %d: sandboxes run rootless, in a user namespace", os.Getuid())
}

func readLine(path string) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(content), "\n")
	return strings.TrimSpace(line)
}

func userNamespaces() finding {
	f := finding{Name: "user namespaces"}
	switch {
	case readLine("/proc/sys/user/max_user_namespaces") == "0":
		f.Detail = "forbidden: user.max_user_namespaces is 0"
	case readLine("/proc/sys/kernel/unprivileged_userns_clone") == "0":
		f.Detail = "forbidden for ordinary users: kernel.unprivileged_userns_clone is 0"
	case readLine("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
		f.Detail = "restricted by AppArmor: kernel.apparmor_restrict_unprivileged_userns is 1"
	default:
		f.OK, f.Detail = true, "allowed"
	}
	return f
}

func cgroups() finding {
	var fs unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &fs); err != nil {
		return finding{"control groups", false, "/sys/fs/cgroup: " + err.Error()}
	}
	if fs.Type == unix.CGROUP2_SUPER_MAGIC {
		return finding{"control groups", true, "version 2"}
	}
	return finding{"control groups", true, "version 1 (hybrid)"}
}

// wantedDisk is what an image, its root file system and a few sandboxes need.
const wantedDisk = 4 << 30

func diskSpace(dataDir string) finding {
	f := finding{Name: "disk"}
	dir := dataDir
	for {
		var fs unix.Statfs_t
		err := unix.Statfs(dir, &fs)
		if err == nil {
			free := fs.Bavail * uint64(fs.Bsize)
			f.OK = free > wantedDisk
			f.Detail = fmt.Sprintf("%.1f GiB free for %s", float64(free)/(1<<30), dataDir)
			return f
		}
		if dir == filepath.Dir(dir) {
			f.Detail = err.Error()
			return f
		}
		dir = filepath.Dir(dir) // the data directory is made at the first start
	}
}

// fileStorage looks whether files can be kept where the configuration says. It
// changes nothing; kernelgw storage doctor tries everything that is needed.
func fileStorage(ctx context.Context, c *Config) finding {
	f := finding{Name: "file storage"}
	if c.Storage != "s3" {
		dir := existing(cmp.Or(c.StorageDir, filepath.Join(c.DataDir, "storage")))
		if err := attributes(dir); err != nil {
			f.Detail = fmt.Sprintf("embedded: the file system of %s has no extended attributes (%v); choose another with --storage-dir", dir, err)
			return f
		}
		f.OK, f.Detail = true, "embedded: the file system has extended attributes"
		return f
	}
	b, err := openBucket(ctx, c, nil)
	if err == nil {
		defer b.close()
		var report *s3store.Report
		if report, err = s3store.Probe(ctx, b.client, b.name, b.prefix); err == nil {
			err = report.Unusable()
		}
	}
	if err != nil {
		f.Detail = err.Error()
		return f
	}
	f.OK, f.Detail = true, fmt.Sprintf("bucket %s has what is needed", b.name)
	return f
}

// existing returns the nearest directory above a path that is there.
func existing(dir string) string {
	for {
		if info, err := os.Stat(dir); (err == nil && info.IsDir()) || dir == filepath.Dir(dir) {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}

// attributes tries whether files in dir can have extended attributes.
func attributes(dir string) error {
	probe, err := os.CreateTemp(dir, ".kernelgw-doctor-")
	if err != nil {
		return err
	}
	defer os.Remove(probe.Name())
	defer probe.Close()
	return unix.Fsetxattr(int(probe.Fd()), "user.kernelgw", []byte("x"), 0)
}

func browserFiles(c *Config) finding {
	dir := frontendDir(&c.FrontendConfig)
	if _, err := os.Stat(filepath.Join(dir, "lab")); err != nil {
		return finding{"JupyterLab pages", false, fmt.Sprintf("not in %s: run make frontend; clients are served without", dir)}
	}
	return finding{"JupyterLab pages", true, dir}
}

func agentBinary(configured string) finding {
	path, err := findAgent(configured)
	if err != nil {
		return finding{"agent", false, err.Error()}
	}
	return finding{"agent", true, path}
}

func defaultImage(ctx context.Context, c *Config) finding {
	store, err := imageStore(c)
	if err != nil {
		return finding{"image", false, err.Error()}
	}
	image, err := store.Resolve(ctx, c.Image)
	if err != nil {
		return finding{"image", false, err.Error()}
	}
	names := make([]string, 0, len(image.Kernelspecs))
	for name := range image.Kernelspecs {
		names = append(names, name)
	}
	return finding{"image", true, fmt.Sprintf("%s (%.19s), kernelspecs: %s", image.Name, image.Digest, strings.Join(names, ", "))}
}
