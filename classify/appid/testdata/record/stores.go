package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/FerretDB/FerretDB/ferretdb"
	"github.com/bradfitz/gomemcache/memcache"
	"github.com/colinmarc/hdfs/v2"
	goora "github.com/sijms/go-ora/v2"
	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/mongo"
	"go.mongodb.org/mongo-driver/mongo/options"
	"google.golang.org/protobuf/encoding/protowire"
)

func stores() []scenario {
	return []scenario{
		{
			name: "mongodb", ports: []int{27017}, labels: []label{{"tcp", 27017, "mongodb", ""}},
			made: []string{"github.com/FerretDB/FerretDB", "go.mongodb.org/mongo-driver"},
			serve: func(ctx context.Context, dir string) error {
				f, err := ferretdb.New(&ferretdb.Config{Listener: ferretdb.ListenerConfig{TCP: serverIP + ":27017"}, Handler: "sqlite", SQLiteURL: "file:" + dir + "/"})
				if err != nil {
					return err
				}
				return f.Run(ctx)
			},
			call: func(ctx context.Context) error {
				c, err := mongo.Connect(ctx, options.Client().ApplyURI("mongodb://"+serverIP+":27017/"))
				if err != nil {
					return err
				}
				defer func() { _ = c.Disconnect(ctx) }()
				orders := c.Database("shop").Collection("orders")
				if _, err := orders.InsertOne(ctx, bson.M{"item": "lamp"}); err != nil {
					return err
				}
				return orders.FindOne(ctx, bson.M{"item": "lamp"}).Err()
			},
		},
		{
			name: "memcached", ports: []int{11211}, labels: []label{{"tcp", 11211, "memcached", ""}},
			made: []string{"memcached", "github.com/bradfitz/gomemcache"}, serve: memcached,
			call: func(context.Context) error {
				c := memcache.New(serverIP + ":11211")
				defer c.Close()
				if err := c.Set(&memcache.Item{Key: "basket", Value: []byte("one lamp")}); err != nil {
					return err
				}
				_, err := c.Get("basket")
				return err
			},
		},
		{
			name: "memcached-binary", ports: []int{11211}, labels: []label{{"tcp", 11211, "memcached", ""}},
			made: []string{"memcached", "libmemcached-tools"}, serve: memcached,
			call: func(ctx context.Context) error {
				file := filepath.Join(os.TempDir(), "basket")
				if err := os.WriteFile(file, []byte("one lamp"), 0o600); err != nil {
					return err
				}
				defer os.Remove(file)
				if err := exec.CommandContext(ctx, "memccp", "--binary", "--servers="+serverIP+":11211", file).Run(); err != nil {
					return err
				}
				return exec.CommandContext(ctx, "memccat", "--binary", "--servers="+serverIP+":11211", "basket").Run()
			},
		},
		{
			name: "tns", ports: []int{1521}, labels: []label{{"tcp", 1521, "tns", ""}},
			made: []string{"github.com/sijms/go-ora/v2"}, note: "the server is a listener that refuses, as Oracle's does a service that it does not know",
			serve: func(context.Context, string) error { return listen(1521, refuseTNS) },
			call: func(ctx context.Context) error {
				db, err := goora.NewConnection("oracle://shop:secret@"+serverIP+":1521/ORDERS", nil)
				if err != nil {
					return err
				}
				if err := db.OpenWithContext(ctx); err == nil || !strings.Contains(err.Error(), "12514") {
					return fmt.Errorf("refused it should be: %w", err)
				}
				return nil
			},
		},
		{
			name: "hdfs", ports: []int{8020, 9866}, labels: []label{{"tcp", 8020, "hdfs", ""}, {"tcp", 9866, "hdfs", ""}},
			made: []string{"github.com/colinmarc/hdfs/v2"}, note: "namenode and datanode are listeners that answer one file's reading after Hadoop's .proto files",
			serve: func(context.Context, string) error {
				go func() { _ = listen(9866, datanode) }()
				return listen(8020, namenode)
			},
			call: func(context.Context) error {
				c, err := hdfs.NewClient(hdfs.ClientOptions{Addresses: []string{serverIP + ":8020"}, User: "shop"})
				if err != nil {
					return err
				}
				defer c.Close()
				data, err := c.ReadFile("/orders/1")
				if err == nil && string(data) != hdfsFile {
					err = fmt.Errorf("read %q", data)
				}
				return err
			},
		},
		{
			name: "webhdfs", ports: []int{9870}, labels: []label{{"tcp", 9870, "http", "hdfs"}},
			note: "net/http on both sides, with the request and reply of the WebHDFS documentation",
			serve: func(context.Context, string) error {
				return http.ListenAndServe(serverIP+":9870", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Content-Type", "application/json")
					_, _ = io.WriteString(w, `{"FileStatus":{"accessTime":0,"blockSize":0,"childrenNum":1,"fileId":16386,"group":"shop","length":0,"modificationTime":1320173277227,"owner":"shop","pathSuffix":"","permission":"777","replication":0,"storagePolicy":0,"type":"DIRECTORY"}}`)
				}))
			},
			call: func(context.Context) error {
				return get("http://" + serverIP + ":9870/webhdfs/v1/orders?op=GETFILESTATUS&user.name=shop")
			},
		},
	}
}

func memcached(ctx context.Context, dir string) error {
	return execute(ctx, dir, nil, "memcached", "-u", "root", "-l", serverIP, "-P", filepath.Join(dir, "pid"))
}

func get(url string) error {
	r, err := http.Get(url)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	_, err = io.Copy(io.Discard, r.Body)
	return err
}

func post(url, body string) error {
	r, err := http.Post(url, "application/json", strings.NewReader(body))
	if err != nil {
		return err
	}
	defer r.Body.Close()
	_, err = io.Copy(io.Discard, r.Body)
	return err
}

// listen answers each connection with serve.
func listen(port int, serve func(net.Conn) error) error {
	l, err := net.Listen("tcp", fmt.Sprintf("%s:%d", serverIP, port))
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			if err := serve(c); err != nil && !errors.Is(err, io.EOF) {
				fmt.Println(err)
			}
		}()
	}
}

func refuseTNS(c net.Conn) error {
	head := make([]byte, 8)
	if _, err := io.ReadFull(c, head); err != nil {
		return err
	}
	if _, err := io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint16(head))-8); err != nil {
		return err
	}
	text := "(DESCRIPTION=(TMP=)(VSNNUM=318767104)(ERR=12514)(ERROR_STACK=(ERROR=(CODE=12514)(EMFI=4))))"
	b := binary.BigEndian.AppendUint16(nil, uint16(12+len(text)))
	b = append(b, 0, 0, 4, 0, 0, 0, 34, 0) // refuse; the user's and the system's reason
	b = binary.BigEndian.AppendUint16(b, uint16(len(text)))
	_, err := c.Write(append(b, text...))
	return err
}

// field appends a length-delimited field, number a varint.
func field(b []byte, n protowire.Number, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, n, protowire.BytesType), value)
}

func number(b []byte, n protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, n, protowire.VarintType), v)
}

func text(b []byte, n protowire.Number, s string) []byte { return field(b, n, []byte(s)) }

const hdfsFile = "one lamp"

// namenode answers Hadoop RPC: the connection's header and context, then calls,
// of which those for reading a file are known.
func namenode(c net.Conn) error {
	r := bufio.NewReader(c)
	if _, err := r.Discard(7); err != nil { // hrpc, version, service class, authentication
		return err
	}
	for {
		var size [4]byte
		if _, err := io.ReadFull(r, size[:]); err != nil {
			return err
		}
		frame := make([]byte, binary.BigEndian.Uint32(size[:]))
		if _, err := io.ReadFull(r, frame); err != nil {
			return err
		}
		header, n := protowire.ConsumeBytes(frame)
		if n < 0 {
			return errors.New("hdfs: a bad frame")
		}
		id := callID(header)
		if id < 0 { // the connection's context
			continue
		}
		var body []byte
		switch call := string(frame[n:]); {
		case strings.Contains(call, "getFileInfo"):
			body = field(nil, 1, fileStatus())
		case strings.Contains(call, "getBlockLocations"):
			body = blockLocations()
		case strings.Contains(call, "getServerDefaults"):
			body = field(nil, 1, number(number(number(number(number(nil, 1, 128<<20), 2, 512), 3, 65536), 4, 1), 5, 4096))
		default:
			return fmt.Errorf("hdfs: a call that is not known: %q", frame[n:])
		}
		head := number(nil, 1, uint64(uint32(id)))
		head = number(head, 2, 0) // success
		head = number(head, 3, 9) // version
		reply := protowire.AppendBytes(protowire.AppendBytes(nil, head), body)
		if _, err := c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(reply))), reply...)); err != nil {
			return err
		}
	}
}

// callID is field 3 of RpcRequestHeaderProto, a zigzag number.
func callID(b []byte) int64 {
	for len(b) > 0 {
		num, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return -1
		}
		b = b[n:]
		if num == 3 && kind == protowire.VarintType {
			v, _ := protowire.ConsumeVarint(b)
			return protowire.DecodeZigZag(v)
		}
		if n = protowire.ConsumeFieldValue(num, kind, b); n < 0 {
			return -1
		}
		b = b[n:]
	}
	return -1
}

func fileStatus() []byte {
	b := number(nil, 1, 2) // a file
	b = text(b, 2, "")
	b = number(b, 3, uint64(len(hdfsFile)))
	b = field(b, 4, number(nil, 1, 0o644))
	b = text(text(b, 5, "shop"), 6, "shop")
	b = number(number(b, 7, 1320173277227), 8, 1320173277227)
	b = number(number(b, 10, 1), 11, 128<<20)
	return number(b, 13, 16387)
}

func blockLocations() []byte {
	block := text(nil, 1, "BP-1-198.51.100.2-1320173277227")
	block = number(number(number(block, 2, 1073741825), 3, 1001), 4, uint64(len(hdfsFile)))
	id := text(text(text(nil, 1, serverIP), 2, serverIP), 3, "5c4ab5b2-0c0e-4d4b-8c0e-2d3b5f1c9a11")
	id = number(number(number(id, 4, 9866), 5, 9864), 6, 9867)
	token := field(field(text(text(nil, 3, ""), 4, ""), 1, nil), 2, nil)
	located := field(nil, 1, block)
	located = number(located, 2, 0)
	located = field(located, 3, field(nil, 1, id))
	located = number(located, 4, 0)
	located = field(located, 5, token)
	blocks := number(nil, 1, uint64(len(hdfsFile)))
	blocks = field(blocks, 2, located)
	blocks = number(blocks, 3, 0)
	blocks = number(blocks, 5, 1)
	return field(nil, 1, blocks)
}

// datanode answers a block's reading: version, operation, a prefixed request; a
// prefixed reply, one packet, and the empty one that ends the block.
func datanode(c net.Conn) error {
	r := bufio.NewReader(c)
	if _, err := r.Discard(3); err != nil {
		return err
	}
	n, err := binary.ReadUvarint(r)
	if err != nil {
		return err
	}
	if _, err := io.CopyN(io.Discard, r, int64(n)); err != nil {
		return err
	}
	checksum := number(number(nil, 1, 0), 2, 512) // none
	reply := number(nil, 1, 0)
	reply = field(reply, 4, number(field(nil, 1, checksum), 2, 0))
	out := protowire.AppendBytes(nil, reply)
	out = append(out, dataPacket(0, 0, false, hdfsFile)...)
	out = append(out, dataPacket(len(hdfsFile), 1, true, "")...)
	if _, err := c.Write(out); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, r) // the client's status
	return err
}

// dataPacket: payload length, header length, PacketHeaderProto, data.
func dataPacket(offset, seq int, last bool, data string) []byte {
	h := protowire.AppendFixed64(protowire.AppendTag(nil, 1, protowire.Fixed64Type), uint64(offset))
	h = protowire.AppendFixed64(protowire.AppendTag(h, 2, protowire.Fixed64Type), uint64(seq))
	h = number(h, 3, protowire.EncodeBool(last))
	h = protowire.AppendFixed32(protowire.AppendTag(h, 4, protowire.Fixed32Type), uint32(len(data)))
	b := binary.BigEndian.AppendUint32(nil, uint32(4+len(data)))
	b = binary.BigEndian.AppendUint16(b, uint16(len(h)))
	return append(append(b, h...), data...)
}
