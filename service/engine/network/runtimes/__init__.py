"""What runs a network's forwards in place of its own code: ONNX Runtime and OpenVINO, where installed, and CUDA graphs.

kinds      what each of them needs: exporting a network, and opening what was exported
building   the exporting, in a process of its own that yields to everybody
graphs     forwards on CUDA, recorded and replayed
running    a network in one of them as a way to run rows, held against float64, with the network itself to fall back on
"""
