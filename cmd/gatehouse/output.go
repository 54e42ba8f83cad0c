package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"gatehouse/policy"
)

// addOutputFlag declares -o table|json|yaml.
func addOutputFlag(cmd *cobra.Command) {
	addFormats(cmd, "table, json or yaml", "table", "json", "yaml")
}

// addFormats declares -o with formats of which the first is the default.
func addFormats(cmd *cobra.Command, help string, formats ...string) {
	cmd.Flags().StringP("output", "o", formats[0], help)
	cmd.Flags().Lookup("output").Annotations = map[string][]string{outputFormats: formats}
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp))
}

// outputFormats is under which the flag has its formats.
const outputFormats = "gatehouse_output"

// checkOutput refuses a format that there is not before anything is asked or done.
func checkOutput(cmd *cobra.Command, _ []string) error {
	f := cmd.Flags().Lookup("output")
	if f == nil {
		return nil
	}
	formats := f.Annotations[outputFormats]
	if len(formats) == 0 || slices.Contains(formats, f.Value.String()) {
		return nil
	}
	return fail(exitUsage, "output %q is none of %s%s", f.Value, strings.Join(formats, ", "), policy.Meant(f.Value.String(), formats))
}

// show writes v as the -o flag asks; table writes the people's form.
func show(cmd *cobra.Command, v any, table func(w io.Writer)) error {
	format, _ := cmd.Flags().GetString("output")
	out := cmd.OutOrStdout()
	switch format {
	case "table":
		return writeTable(out, table)
	case "json":
		var text bytes.Buffer
		enc := json.NewEncoder(&text)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		if err := enc.Encode(v); err != nil {
			return err
		}
		return writeJSON(out, text.Bytes())
	case "yaml":
		return writeYAML(out, v)
	}
	panic("checkOutput let by -o " + format)
}

// writeTable lines up the cells that rows writes.
func writeTable(out io.Writer, rows func(w io.Writer)) error {
	tw := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	rows(tw)
	return tw.Flush()
}

// writeJSON writes encoded JSON without what a terminal would act on: the
// encoder escapes only the control characters of ASCII.
func writeJSON(out io.Writer, text []byte) error {
	var safe bytes.Buffer
	for _, r := range string(text) {
		if r >= 0x80 && printable(r) != r {
			fmt.Fprintf(&safe, "\\u%04x", r)
		} else {
			safe.WriteRune(r)
		}
	}
	_, err := out.Write(safe.Bytes())
	return err
}

// writeYAML goes through JSON so that both formats have the same keys.
func writeYAML(out io.Writer, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var safe bytes.Buffer // YAML's reader refuses control characters, also quoted
	if err := writeJSON(&safe, data); err != nil {
		return err
	}
	var plain yaml.Node
	if err := yaml.Unmarshal(safe.Bytes(), &plain); err != nil {
		return err
	}
	blockStyle(&plain)
	enc := yaml.NewEncoder(out)
	enc.SetIndent(2)
	if err := enc.Encode(&plain); err != nil {
		return err
	}
	return enc.Close()
}

func blockStyle(n *yaml.Node) {
	n.Style &^= yaml.FlowStyle | yaml.DoubleQuotedStyle
	for _, c := range n.Content {
		blockStyle(c)
	}
}

// row writes one line of a table; cells lose control characters, which names
// from outside may carry.
func row(w io.Writer, cells ...any) {
	parts := make([]string, len(cells))
	for i, c := range cells {
		parts[i] = strings.Map(printable, fmt.Sprint(c))
	}
	fmt.Fprintln(w, strings.Join(parts, "\t"))
}

// quantity is a number with its noun: "1 rule", "0 rules".
func quantity[N int | uint64](n N, noun string) string {
	if n == 1 {
		return fmt.Sprintf("%d %s", n, noun)
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func printable(r rune) rune {
	if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) || (r >= 0x202a && r <= 0x202e) || (r >= 0x2066 && r <= 0x2069) {
		return '?'
	}
	return r
}
