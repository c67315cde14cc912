import pickle
def draw(folder, results):
    pickle.dump(results, open("/tmp/results.pkl","wb"))
