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

// File is a file's content as it was read.
type File struct {
	Name string
	Data []byte
}

// Schema is the schema key of the file's first document, "" where it has none
// or is no YAML.
func (f *File) Schema() string {
	var head struct {
		Schema string `yaml:"schema"`
	}
	if yaml.NewDecoder(bytes.NewReader(f.Data)).Decode(&head) != nil {
		return ""
	}
	return head.Schema
}

// Collect reads one file, or all of a folder in the order of their names: *.yaml
// and *.yml, those of folders below too, hidden ones left out. What cannot be
// read, and what is no regular file in a folder, is a fault.
func Collect(name string, faults *Faults) []File {
	info, err := os.Stat(name)
	switch {
	case err != nil:
		faults.Add(&Fault{File: name, Text: plainError(err)})
		return nil
	case info.IsDir():
		return CollectFS(os.DirFS(name), name, faults)
	}
	return readFile(os.DirFS(filepath.Dir(name)), filepath.Base(name), name, faults)
}

// CollectFS is Collect for all of fsys; its files are named below prefix.
func CollectFS(fsys fs.FS, prefix string, faults *Faults) []File {
	var out []File
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
		out = append(out, readRegular(fsys, name, path.Join(filepath.ToSlash(prefix), name), faults)...)
		return nil
	})
	if err != nil {
		faults.Add(&Fault{File: prefix, Text: plainError(err)})
	}
	return out
}

// plainError leaves the path out, which the fault names anyhow.
func plainError(err error) string {
	if p := (*fs.PathError)(nil); errors.As(err, &p) {
		return p.Err.Error()
	}
	return err.Error()
}

// readRegular reads what lies in a folder. Opening a pipe or a device can wait
// without end for whoever is on its other side.
func readRegular(fsys fs.FS, name, shown string, faults *Faults) []File {
	if info, err := fs.Stat(fsys, name); err == nil && !info.Mode().IsRegular() {
		faults.Add(&Fault{File: shown, Text: "no regular file"})
		return nil
	}
	return readFile(fsys, name, shown, faults)
}

func readFile(fsys fs.FS, name, shown string, faults *Faults) []File {
	f, err := fsys.Open(name)
	if err != nil {
		faults.Add(&Fault{File: shown, Text: plainError(err)})
		return nil
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err != nil {
		faults.Add(&Fault{File: shown, Text: plainError(err)})
		return nil
	}
	if len(data) > MaxFile {
		faults.Add(&Fault{File: shown, Text: fmt.Sprintf("larger than %d bytes", MaxFile)})
		return nil
	}
	return []File{{shown, data}}
}

// Split calls each for every document of the files.
func Split(files []File, faults *Faults, each func(doc *yaml.Node, file string)) {
	for _, f := range files {
		f.split(faults, each)
	}
}

func (f *File) split(faults *Faults, each func(doc *yaml.Node, file string)) {
	dec := yaml.NewDecoder(bytes.NewReader(f.Data))
	for documents := 0; ; documents++ {
		var doc yaml.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			if documents == 0 {
				faults.Add(&Fault{File: f.Name, Text: "no document in this file"})
			}
			return
		}
		if err != nil {
			faults.Add(syntaxFault(f.Name, err))
			return
		}
		each(&doc, f.Name)
	}
}

// syntaxFault takes the line out of the YAML package's message.
func syntaxFault(file string, err error) *Fault {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	var line int
	if n, _ := fmt.Sscanf(text, "line %d:", &line); n == 1 {
		_, text, _ = strings.Cut(text, ": ")
	}
	if strings.Contains(text, "cannot start any token") {
		text += "; a tab, most often: YAML is indented by spaces"
	}
	return &Fault{File: file, Line: line, Text: "not YAML: " + text}
}
