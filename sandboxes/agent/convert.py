# Run by the agent (convert.go), with a request in JSON as its argument: tells
# what this Python's nbconvert can make of notebooks, or makes it of the one on
# its standard input, as jupyter_server does. The answer is one line of JSON and,
# when that says so, a document behind it.
import sys

# Nothing from the directory that this is run in: there are files of a user.
sys.path[:] = [entry for entry in sys.path if entry]

import datetime
import importlib.metadata
import importlib.util
import io
import json
import os
import shutil
import zipfile


class Failure(Exception):
    """What the user is told, with a status of HTTP."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


def exporter_class(name):
    """Returns a class of exporters by name, as nbconvert finds it, or None."""
    if name == "ipynb":
        name = "notebook"
    for found in importlib.metadata.entry_points(group="nbconvert.exporters"):
        if found.name in (name, name.lower()):
            return found.load()
    return None


def missing(exporter):
    """Names what an exporter needs besides nbconvert and does not find."""
    kinds = {kind.__name__ for kind in type(exporter).__mro__}
    if kinds & {"LatexExporter", "RSTExporter", "ASCIIDocExporter"} and not shutil.which("pandoc"):
        return "pandoc"
    if "PDFExporter" in kinds and not shutil.which(exporter.latex_command[0]):
        return exporter.latex_command[0]
    if "WebPDFExporter" in kinds and importlib.util.find_spec("playwright") is None:
        return "playwright"
    if "QtExporter" in kinds and importlib.util.find_spec("PyQt5") is None:
        return "PyQtWebEngine"
    return ""


def exporters():
    """Returns what can be made here."""
    if importlib.util.find_spec("nbconvert") is None:
        return {}
    found = {}
    for entry in importlib.metadata.entry_points(group="nbconvert.exporters"):
        try:
            kind = entry.load()
            exporter = kind()
            if exporter.enabled and not missing(exporter):
                found[entry.name] = {"output_mimetype": kind.output_mimetype or ""}
        except Exception as e:  # of one package: the others work
            print(f"exporter {entry.name}: {e!r}", file=sys.stderr)
    return found


def read_notebook(request):
    """Reads standard input; returns a notebook and its name."""
    import nbformat

    try:
        if not request.get("posted"):
            return nbformat.reads(sys.stdin.buffer.read().decode(), as_version=4), os.path.basename(request["path"])
        model = json.loads(sys.stdin.buffer.read())
        name = model.get("name") or "notebook.ipynb"
        return nbformat.from_dict(model["content"]), os.path.basename(name)
    except Exception as e:
        raise Failure(400, f"This is no notebook that can be read: {e!r}") from e


def convert(request):
    """Returns the head of a document, and its bytes."""
    name = request["exporter"]
    if importlib.util.find_spec("nbconvert") is None:
        raise Failure(501, "The image of this workspace has no nbconvert: it takes an image with nbconvert (from pip) in it")
    kind = exporter_class(name)
    if kind is None:
        raise Failure(404, f"No exporter for format: {name}")
    try:
        exporter = kind()
    except Exception as e:
        raise Failure(501, f"The exporter for {name} does not work in the image of this workspace: {e!r}") from e
    if not exporter.enabled:
        raise Failure(501, f"The exporter for {name} does not work in the image of this workspace: what it needs is not installed")
    if lacks := missing(exporter):
        raise Failure(501, f"The image of this workspace cannot make {name}: it has no {lacks}. Use another format, or an image with {lacks} in it")
    if name == "html" and request.get("sanitize") is not None:
        exporter.sanitize_html = request["sanitize"]

    notebook, filename = read_notebook(request)
    title = os.path.splitext(filename)[0]
    metadata = {"name": title}
    if "modified" in request:
        modified = datetime.datetime.fromisoformat(request["modified"].replace("Z", "+00:00"))
        metadata["modified_date"] = modified.strftime("%B %-d, %Y")
    if request.get("path"):
        metadata["path"] = os.getcwd()
    try:
        output, resources = exporter.from_notebook_node(notebook, resources={"metadata": metadata})
    except Exception as e:
        raise Failure(422, f"nbconvert failed: {e!r}") from e

    body = output if isinstance(output, bytes) else str(output).encode("utf-8", "surrogatepass")
    extension = resources.get("output_extension") or ""
    if not resources.get("outputs"):
        return {"mimetype": exporter.output_mimetype or "", "filename": title + extension, "attachment": False}, body
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, mode="w", compression=zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(title + extension, body)
        for path, data in resources["outputs"].items():
            archive.writestr(os.path.basename(path), data)
    return {"mimetype": "application/zip", "filename": title + ".zip", "attachment": True}, packed.getvalue()


def main():
    # What libraries print is no part of the answer.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    request = json.loads(sys.argv[1])
    body = b""
    try:
        if not request:
            head = exporters()
        else:
            head, body = convert(request)
            if len(body) > request["max_bytes"]:
                raise Failure(422, f"The document would have {len(body)} bytes; at most {request['max_bytes']} can be sent")
            head["size"] = len(body)
    except Failure as e:
        head, body = {"status": e.status, "message": str(e)[:1000]}, b""
    out.write(json.dumps(head).encode() + b"\n")
    out.write(body)
    out.close()


main()
