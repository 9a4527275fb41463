package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"kernelgw/images"
	"kernelgw/sandboxes/image"
)

// ImageCmd builds, fetches and shows the images that sandboxes are made of.
type ImageCmd struct {
	Build     ImageBuildCmd     `cmd:"" help:"Build the default image: Debian's python3 with ipykernel, matplotlib, numpy, pandas, ipywidgets, nbconvert. Needs Debian 12, not root."`
	Pull      ImagePullCmd      `cmd:"" help:"Fetch an image that has a kernelspec, from a registry or a file."`
	List      ImageListCmd      `cmd:"" help:"List the images."`
	Inspect   ImageInspectCmd   `cmd:"" help:"Show an image: digest, user, environment, kernelspecs."`
	SignCheck ImageSignCheckCmd `cmd:"" help:"Say what signatures an image has, and whether it would be admitted and why. Nothing is stored."`
	SBOM      ImageSBOMCmd      `cmd:"" name:"sbom" help:"Print what an image that was built here is made of: CycloneDX JSON."`
	Remove    ImageRemoveCmd    `cmd:"" help:"Remove an image. Sandboxes that still run from it lose their files."`
	Prune     ImagePruneCmd     `cmd:"" help:"Remove images that no name leads to any more, as earlier builds. Sandboxes that still run from one lose their files."`
}

// imageStoreFlags say which store a command works on.
type imageStoreFlags struct {
	ImageStore string `help:"Directory of images. Default: images in the data directory if there are any, else .cache/images beside the binary's directory." type:"path"`
	DataDir    string `help:"Directory of everything that the gateway keeps." default:"${data_dir}" type:"path"`
}

func (f imageStoreFlags) open() (*image.Store, error) {
	return image.Open(image.Options{Dir: cmp.Or(f.ImageStore, DefaultImageStore(f.DataDir))})
}

// judgedStoreFlags are those of commands that the policy is for.
type judgedStoreFlags struct {
	imageStoreFlags
	ImagePolicyConfig
}

func (f judgedStoreFlags) open(env *environment) (*image.Store, error) {
	var err error
	if f.ImageSigners, err = env.file.signers(); err != nil {
		return nil, err
	}
	policy, err := f.imagePolicy()
	if err != nil {
		return nil, err
	}
	return image.Open(image.Options{Dir: cmp.Or(f.ImageStore, DefaultImageStore(f.DataDir)), Policy: policy})
}

// DefaultImageStore is the image store that is used when none is configured:
// images in the data directory when there are any, else .cache/images beside
// the directory of this program, where "make image" puts them.
func DefaultImageStore(dataDir string) string {
	own := filepath.Join(dataDir, "images")
	if _, err := os.Stat(filepath.Join(own, "index.json")); err == nil {
		return own
	}
	return cmp.Or(besideProgram("images"), own)
}

// besideProgram is where make puts things: .cache beside the directory of this
// program. It is "" when that cannot be found out.
func besideProgram(name string) string {
	self, err := os.Executable()
	if err != nil {
		return ""
	}
	if real, err := filepath.EvalSymlinks(self); err == nil {
		self = real
	}
	return filepath.Join(filepath.Dir(filepath.Dir(self)), ".cache", name)
}

// ImageBuildCmd builds the default image.
type ImageBuildCmd struct {
	judgedStoreFlags
	Name              string `help:"Name of the image in the store." default:"default"`
	Inputs            string `help:"Directory with packages, requirements.lock and exclude. Default: those of this program." type:"existingdir"`
	Force             bool   `help:"Build although nothing changed."`
	CheckReproducible bool   `help:"Build twice and fail when the digests differ."`
}

// Run builds the image and prints its digest.
func (c *ImageBuildCmd) Run(env *environment) error {
	store, err := c.open(env)
	if err != nil {
		return err
	}
	inputs := images.Default()
	if c.Inputs != "" {
		inputs = os.DirFS(c.Inputs)
	}
	progress := image.NewProgress(env.stderr)
	img, err := store.Build(env.ctx, image.BuildOptions{
		Name: c.Name, Inputs: inputs, Force: c.Force, Check: c.CheckReproducible, Progress: progress,
	})
	if err != nil {
		return err
	}
	progress.Say("image %q is in %s", c.Name, store.Dir())
	fmt.Fprintln(env.stdout, img.Digest)
	return nil
}

// ImagePullCmd fetches an image.
type ImagePullCmd struct {
	judgedStoreFlags
	Ref      string `arg:"" help:"Registry reference, or oci:DIR, oci-archive:FILE, docker-archive:FILE."`
	Name     string `help:"Name of the image in the store. Default: the reference in its full form."`
	Insecure bool   `help:"Allow plain HTTP to the registry."`
	Bundle   string `help:"File with a sigstore bundle that signs the image. Default for local images: the file with .sigstore.json behind its name." type:"existingfile"`
}

// Run fetches the image and prints its digest.
func (c *ImagePullCmd) Run(env *environment) error {
	store, err := c.open(env)
	if err != nil {
		return err
	}
	progress := image.NewProgress(env.stderr)
	img, err := store.Pull(env.ctx, image.PullOptions{Ref: c.Ref, Name: c.Name, Insecure: c.Insecure, Bundle: c.Bundle, Progress: progress})
	if err != nil {
		return err
	}
	progress.Say("image %q is in %s; kernelspecs: %s", img.Name, store.Dir(), strings.Join(kernelNames(img), ", "))
	for _, problem := range img.Problems {
		fmt.Fprintln(env.stderr, "left out:", problem)
	}
	fmt.Fprintln(env.stdout, img.Digest)
	return nil
}

func kernelNames(img image.Image) []string { return slices.Sorted(maps.Keys(img.Kernelspecs)) }

// ImageListCmd lists the images.
type ImageListCmd struct{ judgedStoreFlags }

// Run prints a line for each name.
func (c *ImageListCmd) Run(env *environment) error {
	store, err := c.open(env)
	if err != nil {
		return err
	}
	entries, err := store.List(env.ctx)
	if err != nil {
		return err
	}
	if len(entries) == 0 {
		fmt.Fprintf(env.stderr, "no images in %s; make the default one with \"kernelgw image build\"\n", store.Dir())
		return nil
	}
	w := tabwriter.NewWriter(env.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tDIGEST\tSIZE\tKERNELSPECS")
	for _, e := range entries {
		kernels := "cannot be read"
		img, err := store.Resolve(env.ctx, e.Name)
		if refused := new(image.RefusedError); errors.As(err, &refused) {
			kernels = "refused by the policy: see image sign-check"
		} else if err == nil {
			kernels = strings.Join(kernelNames(img), ",")
		}
		fmt.Fprintf(w, "%s\t%.19s\t%.1f MB\t%s\n", e.Name, e.Digest, float64(e.Size)/1e6, kernels)
	}
	return w.Flush()
}

// ImageInspectCmd shows an image.
type ImageInspectCmd struct {
	judgedStoreFlags
	Name string `arg:"" optional:"" help:"Name or digest." default:"default"`
}

// Run prints what is known of the image.
func (c *ImageInspectCmd) Run(env *environment) error {
	store, err := c.open(env)
	if err != nil {
		return err
	}
	img, err := store.Resolve(env.ctx, c.Name)
	if err != nil {
		return err
	}
	size, err := blobSize(env.ctx, store, img.Digest)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(env.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "name\t%s\ndigest\t%s\nsize\t%.1f MB compressed\nrootfs\t%s\n", img.Name, img.Digest, float64(size)/1e6, img.RootFS)
	fmt.Fprintf(w, "user\t%s (%d:%d), home %s\n", img.User.Name, img.User.UID, img.User.GID, img.User.Home)
	fmt.Fprintf(w, "origin\t%s\n", img.Verdict.Origin)
	if img.Verdict.Signer != "" {
		fmt.Fprintf(w, "signed by\t%s\n", img.Verdict.Signer)
	}
	for _, kv := range img.Env {
		fmt.Fprintf(w, "env\t%s\n", kv)
	}
	for _, name := range kernelNames(img) {
		fmt.Fprintf(w, "kernelspec\t%s in %s\n", name, img.Kernelspecs[name].Dir)
	}
	for _, problem := range img.Problems {
		fmt.Fprintf(w, "left out\t%v\n", problem)
	}
	return w.Flush()
}

func blobSize(ctx context.Context, store *image.Store, digest string) (int64, error) {
	entries, err := store.List(ctx)
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		if e.Digest == digest {
			return e.Size, nil
		}
	}
	return 0, nil
}

// ImageSignCheckCmd says what signatures an image has.
type ImageSignCheckCmd struct {
	judgedStoreFlags
	Ref      string `arg:"" help:"Name or digest of an image in the store, else a registry reference or oci:DIR, oci-archive:FILE, docker-archive:FILE."`
	Insecure bool   `help:"Allow plain HTTP to the registry."`
	Bundle   string `help:"File with a sigstore bundle that signs the image." type:"existingfile"`
}

// Run prints the verdict; its error is that the image would be refused.
func (c *ImageSignCheckCmd) Run(env *environment) error {
	store, err := c.open(env)
	if err != nil {
		return err
	}
	v, err := store.CheckSignatures(env.ctx, image.PullOptions{Ref: c.Ref, Insecure: c.Insecure, Bundle: c.Bundle})
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(env.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "image\t%s\ndigest\t%s\n", v.Origin, cmp.Or(v.Digest, "not asked for"))
	if v.Allowed != "" {
		fmt.Fprintf(w, "allowed by\timage_allow: %s\n", v.Allowed)
	}
	if v.Mode != "" {
		fmt.Fprintf(w, "signatures\t%s, by %s\n", v.Mode, cmp.Or(v.Rule, "image_verify"))
	}
	for _, sig := range v.Signatures {
		if sig.Err != nil {
			fmt.Fprintf(w, "does not count\t%s: %v\n", sig.Found, sig.Err)
		} else {
			fmt.Fprintf(w, "counts\t%s: by %s\n", sig.Found, sig.Signer)
		}
	}
	switch {
	case v.Refused != nil:
		fmt.Fprintln(w, "admitted\tno")
	case v.Missing != nil && v.Mode != image.VerifyOff:
		fmt.Fprintf(w, "admitted\tyes, with a warning: %v\n", v.Missing)
	default:
		fmt.Fprintln(w, "admitted\tyes")
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if v.Refused != nil {
		return &image.RefusedError{Image: c.Ref, Why: v.Refused}
	}
	return nil
}

// ImageSBOMCmd prints what an image is made of.
type ImageSBOMCmd struct {
	imageStoreFlags
	Name string `arg:"" optional:"" help:"Name or digest." default:"default"`
}

// Run prints the document as it was made at build.
func (c *ImageSBOMCmd) Run(env *environment) error {
	store, err := c.open()
	if err != nil {
		return err
	}
	raw, err := store.SBOM(env.ctx, c.Name)
	if err != nil {
		return err
	}
	_, err = env.stdout.Write(raw)
	return err
}

// ImageRemoveCmd removes images.
type ImageRemoveCmd struct {
	imageStoreFlags
	Name []string `arg:"" help:"Names or digests."`
}

// Run removes the images.
func (c *ImageRemoveCmd) Run(env *environment) error {
	store, err := c.open()
	if err != nil {
		return err
	}
	for _, name := range c.Name {
		if err := store.Remove(env.ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// ImagePruneCmd removes what no name leads to.
type ImagePruneCmd struct{ imageStoreFlags }

// Run prunes the store.
func (c *ImagePruneCmd) Run(env *environment) error {
	store, err := c.open()
	if err != nil {
		return err
	}
	return store.Prune(env.ctx)
}
