;; A phase module that is as small as can be: what fuzzing of components begins with. Numbers are addresses and lengths.
(module
  (import "farmhand:phase/log@0.1.1" "write" (func $log (param i32 i32 i32 i32 i32)))
  (import "farmhand:phase/guest@0.1.1" "[method]guest.create-file"
    (func $create (param i32 i32 i32 i32 i32 i32)))
  (import "farmhand:phase/guest@0.1.1" "[method]file-writer.write" (func $write (param i32 i32 i32 i32 i32)))
  (import "farmhand:phase/guest@0.1.1" "[static]file-writer.finish" (func $finish (param i32 i32)))
  (import "farmhand:phase/guest@0.1.1" "[resource-drop]guest" (func $drop (param i32)))
  (memory (export "memory") 1)
  (global $heap (mut i32) (i32.const 4096))
  (data (i32.const 1024) "tiny")
  (data (i32.const 1040) "1.0.0-rc.1")
  (data (i32.const 1056) "Writes a file")
  (data (i32.const 1072) "/srv/tiny")
  (data (i32.const 1088) "MIT")
  (data (i32.const 1104) "package")
  (data (i32.const 1120) "debian*")
  (data (i32.const 1136) "/srv/**")
  (data (i32.const 1152) "writes it")
  (data (i32.const 1200) "{\"type\": \"object\", \"properties\": {\"list\": {\"type\": \"array\", \"items\": {\"$ref\": \"#/$defs/word\"}, \"maxItems\": 9}}, \"$defs\": {\"word\": {\"type\": \"string\", \"pattern\": \"^[a-z]+$\"}}}")
  ;; Lists: of one text each, one phase, one capability.
  (data (i32.const 1536) "\50\04\00\00\07\00\00\00")
  (data (i32.const 1544) "\60\04\00\00\07\00\00\00")
  (data (i32.const 1552) "\70\04\00\00\07\00\00\00")
  (data (i32.const 1560) "\02")
  (data (i32.const 1568) "\02\00\00\00\10\06\00\00\01\00\00\00\80\04\00\00\09\00\00\00")
  ;; The descriptor: name, version, summary, authors, license, provides, platforms, phases, capabilities, settings-schema.
  (data (i32.const 1600)
    "\00\04\00\00\04\00\00\00" "\10\04\00\00\0a\00\00\00" "\20\04\00\00\0d\00\00\00" "\00\06\00\00\01\00\00\00"
    "\40\04\00\00\03\00\00\00" "\00\06\00\00\01\00\00\00" "\08\06\00\00\01\00\00\00" "\18\06\00\00\01\00\00\00"
    "\20\06\00\00\01\00\00\00" "\b0\04\00\00\ad\00\00\00")
  ;; The outcome: done, changed, with the summary of above.
  (data (i32.const 1700) "\00\00\00\00\01\00\00\00\20\04\00\00\0d\00\00\00")
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    global.get $heap
    global.get $heap local.get 3 i32.add i32.const 7 i32.add i32.const -8 i32.and global.set $heap)
  (func (export "describe") (result i32) i32.const 1600)
  (func (export "run")
    (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (param $guest i32) (result i32) (local $writer i32)
    (call $log (i32.const 1) (i32.const 1056) (i32.const 13) (i32.const 0) (i32.const 0))
    (call $create (local.get $guest) (i32.const 1072) (i32.const 9) (i32.const 0x1a4) (i32.const 0) (i32.const 2048))
    (if (i32.eqz (i32.load8_u (i32.const 2048)))
      (then
        (local.set $writer (i32.load (i32.const 2052)))
        (call $write (local.get $writer) (i32.const 0) (i32.const 1056) (i32.const 13) (i32.const 2048))
        (call $finish (local.get $writer) (i32.const 2048))))
    (call $drop (local.get $guest))
    i32.const 1700))
