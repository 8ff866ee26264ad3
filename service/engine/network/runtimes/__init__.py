"""Other libraries that run a network's forwards: ONNX Runtime and OpenVINO, where they are installed.

kinds      what each of them needs: exporting a network, and opening what was exported
building   the exporting, in a process of its own that yields to everybody
running    a network in one of them as a way to run rows, held against float64, with the network itself to fall back on
"""
