package contents

import (
	"path"
	"strings"
)

// MimeType returns the type that a file has by its name, as stock servers say it,
// or "". It does not depend on the machine.
func MimeType(name string) string {
	return mimeTypes[strings.ToLower(path.Ext(name))]
}

// compressed are endings that say how a file is encoded, not what it is.
var compressed = map[string]string{".gz": "gzip", ".tgz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".z": "compress", ".br": "br"}

// servedType returns the Content-Type of a file that is served as it is.
func servedType(name string) string {
	if strings.HasSuffix(strings.ToLower(name), ".ipynb") {
		return "application/x-ipynb+json"
	}
	switch compressed[strings.ToLower(path.Ext(name))] {
	case "":
	case "gzip":
		return "application/gzip" // RFC 6713
	default:
		return octets
	}
	kind := MimeType(name)
	if kind == "text/plain" {
		return "text/plain; charset=UTF-8"
	}
	return kind
}

const octets = "application/octet-stream"

var mimeTypes = map[string]string{
	".7z": "application/x-7z-compressed", ".aac": "audio/aac", ".aif": "audio/x-aiff", ".aiff": "audio/x-aiff", ".avi": "video/x-msvideo",
	".avif": "image/avif", ".bat": "text/plain", ".bib": "text/x-bibtex", ".bin": octets, ".bmp": "image/bmp", ".c": "text/plain", ".css": "text/css",
	".csv": "text/csv", ".doc": "application/msword", ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
	".dll": octets, ".eml": "message/rfc822", ".eps": "application/postscript", ".epub": "application/epub+zip", ".exe": octets,
	".flac": "audio/flac", ".geojson": "application/geo+json", ".gif": "image/gif", ".gz": "application/gzip", ".h": "text/plain",
	".h5": "application/x-hdf5", ".hdf": "application/x-hdf", ".htm": "text/html", ".html": "text/html", ".ico": "image/vnd.microsoft.icon",
	".jpe": "image/jpeg", ".jpeg": "image/jpeg", ".jpg": "image/jpeg", ".js": "text/javascript", ".json": "application/json",
	".jsonl": "application/jsonl", ".ksh": "text/plain", ".latex": "application/x-latex", ".log": "text/plain", ".m3u": "application/vnd.apple.mpegurl",
	".md": "text/markdown", ".mhtml": "message/rfc822", ".mjs": "text/javascript", ".mov": "video/quicktime", ".mp3": "audio/mpeg",
	".mp4": "video/mp4", ".mpeg": "video/mpeg", ".mpg": "video/mpeg", ".o": octets, ".oga": "audio/ogg", ".ogg": "audio/ogg",
	".ogv": "video/ogg", ".opus": "audio/opus", ".otf": "font/otf", ".parquet": octets, ".pdf": "application/pdf", ".pkl": octets,
	".png": "image/png", ".ppm": "image/x-portable-pixmap", ".ppt": "application/vnd.ms-powerpoint",
	".pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation", ".ps": "application/postscript", ".py": "text/x-python",
	".rar": "application/vnd.rar", ".rst": "text/x-rst", ".rtf": "application/rtf", ".rtx": "text/richtext", ".sh": "application/x-sh",
	".so": octets, ".svg": "image/svg+xml", ".tar": "application/x-tar", ".tcl": "application/x-tcl", ".tex": "application/x-tex",
	".texi": "application/x-texinfo", ".tif": "image/tiff", ".tiff": "image/tiff", ".ts": "video/mp2t", ".tsv": "text/tab-separated-values",
	".ttf": "font/ttf", ".txt": "text/plain", ".vcf": "text/x-vcard", ".wasm": "application/wasm", ".wav": "audio/x-wav", ".weba": "audio/webm",
	".webm": "video/webm", ".webp": "image/webp", ".wmf": "image/wmf", ".woff": "font/woff", ".woff2": "font/woff2", ".xbm": "image/x-xbitmap",
	".xhtml": "application/xhtml+xml", ".xls": "application/vnd.ms-excel",
	".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", ".xml": "text/xml", ".xsl": "application/xml",
	".yaml": "application/yaml", ".yml": "application/yaml", ".zip": "application/zip",
}
