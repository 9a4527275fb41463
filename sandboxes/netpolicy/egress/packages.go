package egress

import "slices"

// PackageHosts returns what sandboxes.EgressPackages means, each a host or a
// pattern of hosts.
func PackageHosts() []string { return slices.Clone(packageHosts) }

// packageHosts are what sandboxes.EgressPackages means: the common package
// indexes of the languages that kernels are written in, and the hosts from which
// their clients are sent to download. Hosts for uploads are left out where
// they have names of their own.
var packageHosts = []string{
	// Python
	"pypi.org",
	"files.pythonhosted.org",
	// conda: the defaults and the community's channels
	"repo.anaconda.com",
	"conda.anaconda.org",
	"binstar-cio-packages-prod.s3.amazonaws.com", // where conda.anaconda.org redirects some downloads
	// JavaScript
	"registry.npmjs.org",
	// Rust
	"index.crates.io",
	"static.crates.io",
	"crates.io", // redirects downloads of older clients
	// R
	"cran.r-project.org",
	"cloud.r-project.org",
	// Julia
	"pkg.julialang.org",
	"*.pkg.julialang.org", // the servers of a region
	"storage.julialang.net",
}
