// Answers each line of standard input, a question about decoding, patching or selecting, with what the Go implementation
// of the Kubernetes API does. Run by `cargo xtask generate recordings`.
package main

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"reflect"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
)

type question struct {
	Op                   string // decode, strategic, labels, fields
	Group, Version, Kind string
	Body, Patch          json.RawMessage
	Text                 string
	Labels               map[string]string
}

type answer struct {
	Result json.RawMessage `json:"result,omitempty"`
	Proto  string          `json:"proto,omitempty"`
	Error  string          `json:"error,omitempty"`
}

var scheme = runtime.NewScheme()

func main() {
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, appsv1.AddToScheme, batchv1.AddToScheme,
		discoveryv1.AddToScheme, networkingv1.AddToScheme, coordinationv1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			panic(err)
		}
	}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(make([]byte, 1<<20), 1<<26)
	for lines.Scan() {
		var asked question
		if err := json.Unmarshal(lines.Bytes(), &asked); err != nil {
			panic(err)
		}
		reply, err := ask(asked)
		if err != nil {
			reply.Error = err.Error()
		}
		line, err := json.Marshal(reply)
		if err != nil {
			panic(err)
		}
		fmt.Println(string(line))
	}
}

func ask(asked question) (answer, error) {
	switch asked.Op {
	case "decode":
		return decode(asked)
	case "strategic":
		object, err := scheme.New(asked.kind())
		if err != nil {
			return answer{}, err
		}
		merged, err := strategicpatch.StrategicMergePatch(asked.Body, asked.Patch, reflect.ValueOf(object).Elem().Interface())
		return answer{Result: merged}, err
	case "labels":
		selector, err := labels.Parse(asked.Text)
		if err != nil {
			return answer{}, err
		}
		matches, err := json.Marshal(selector.Matches(labels.Set(asked.Labels)))
		return answer{Result: matches}, err
	case "fields":
		_, err := fields.ParseSelector(asked.Text)
		return answer{}, err
	}
	return answer{}, fmt.Errorf("unknown question %q", asked.Op)
}

func (asked question) kind() schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: asked.Group, Version: asked.Version, Kind: asked.Kind}
}

// Strict decoding, then the JSON and the protobuf of what was decoded.
func decode(asked question) (answer, error) {
	kind := asked.kind()
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	object, _, err := decoder.Decode(asked.Body, &kind, nil)
	if err != nil {
		return answer{}, err
	}
	text, err := json.Marshal(object)
	if err != nil {
		return answer{}, err
	}
	bytes, err := runtime.Encode(protobuf.NewSerializer(scheme, scheme), object)
	return answer{Result: text, Proto: base64.StdEncoding.EncodeToString(bytes)}, err
}
