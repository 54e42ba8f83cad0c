package document

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"
)

// MaxFile bounds one file, in bytes; the largest of the library of models has a few KiB.
const MaxFile = 1 << 20

// Read calls each for every document of one file or of a folder's files, in
// the order of their names: *.yaml and *.yml, those of folders below too,
// hidden ones left out. What cannot be read is a fault.
func Read(name string, faults *Faults, each func(doc *yaml.Node, file string)) {
	info, err := os.Stat(name)
	switch {
	case err != nil:
		faults.Add(&Fault{File: name, Text: plainError(err)})
	case info.IsDir():
		ReadFS(os.DirFS(name), name, faults, each)
	default:
		readFile(os.DirFS(filepath.Dir(name)), filepath.Base(name), name, faults, each)
	}
}

// ReadFS is Read for all of fsys; faults name its files below prefix.
func ReadFS(fsys fs.FS, prefix string, faults *Faults, each func(doc *yaml.Node, file string)) {
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		hidden := strings.HasPrefix(d.Name(), ".") && name != "."
		switch {
		case d.IsDir() && hidden:
			return fs.SkipDir
		case d.IsDir(), hidden, path.Ext(name) != ".yaml" && path.Ext(name) != ".yml":
			return nil
		}
		readFile(fsys, name, path.Join(filepath.ToSlash(prefix), name), faults, each)
		return nil
	})
	if err != nil {
		faults.Add(&Fault{File: prefix, Text: plainError(err)})
	}
}

// plainError leaves the path out, which the fault names anyhow.
func plainError(err error) string {
	if p := (*fs.PathError)(nil); errors.As(err, &p) {
		return p.Err.Error()
	}
	return err.Error()
}

func readFile(fsys fs.FS, name, shown string, faults *Faults, each func(*yaml.Node, string)) {
	f, err := fsys.Open(name)
	if err != nil {
		faults.Add(&Fault{File: shown, Text: plainError(err)})
		return
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err != nil {
		faults.Add(&Fault{File: shown, Text: plainError(err)})
		return
	}
	if len(data) > MaxFile {
		faults.Add(&Fault{File: shown, Text: fmt.Sprintf("larger than %d bytes", MaxFile)})
		return
	}
	Split(data, shown, faults, each)
}

// Split calls each for every document of data, which is a file's content.
func Split(data []byte, file string, faults *Faults, each func(doc *yaml.Node, file string)) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for documents := 0; ; documents++ {
		var doc yaml.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			if documents == 0 {
				faults.Add(&Fault{File: file, Text: "no document in this file"})
			}
			return
		}
		if err != nil {
			faults.Add(syntaxFault(file, err))
			return
		}
		each(&doc, file)
	}
}

// syntaxFault takes the line out of the YAML package's message.
func syntaxFault(file string, err error) *Fault {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	var line int
	if n, _ := fmt.Sscanf(text, "line %d:", &line); n == 1 {
		_, text, _ = strings.Cut(text, ": ")
	}
	return &Fault{File: file, Line: line, Text: "not YAML: " + text}
}
